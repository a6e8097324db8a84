"""Downloads of models over HTTP: what is in them, that their bytes stay the same, and parts of them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from core.base_models.registry import Hub
from core.jobs.attempt import StoredCheckpoint
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from core.store import adapters
from core.store.blobs import LocalBlobStore
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.app.models.downloads.published import WEIGHT_BYTES, files_of, publish_adapter
from tests.core.store.references.deployment import StoreInUse, write_adapter
from worker.jobs.blob_transfer import store_adapter


def readme_of(archive: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.extractfile("README.md").read().decode()  # type: ignore[union-attr]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapter"


@pytest.fixture
def name(harness: ApiHarness, folder: Path) -> str:
    return publish_adapter(harness, folder)


@pytest.fixture
def whole(client: TestClient, name: str) -> bytes:
    response = client.get(f"/v1/models/{name}/download")
    assert response.status_code == 200
    return response.content


def test_a_download_is_the_adapters_folder_as_a_tar(client: TestClient, name: str) -> None:
    response = client.get(f"/v1/models/{name}/download")
    assert response.headers["content-type"] == "application/x-tar"
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["content-disposition"].endswith('.tar"')
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        assert tar.getnames() == [MANIFEST, CONFIG, WEIGHTS, "README.md"]
        told = {(one.mode, one.uid, one.gid, one.uname, one.gname, one.mtime) for one in tar}
    assert told == {(0o644, 0, 0, "", "", 0)}


def test_its_files_are_those_that_were_published(whole: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    del contents["README.md"]
    assert contents == files_of(folder)


def test_its_readme_is_the_models_card(client: TestClient, name: str, whole: bytes) -> None:
    assert readme_of(whole) == client.get(f"/v1/models/{name}/card").text
    assert f"# {name}\n" in readme_of(whole)


def test_the_readme_names_the_bases_place_on_the_hub_and_its_licence(
    client: TestClient, harness: ApiHarness, name: str
) -> None:
    hub = Hub(id="org/model", revision="a" * 40)
    entry = harness.registry.get(BASE).model_copy(update={"source": hub, "license": "mit"})
    harness.registry._entries[BASE] = entry
    page = client.get(f"/v1/models/{name}/download").content
    assert b'base_model: org/model\nlicense: "mit"\n' in page
    assert b"tiny is licensed under mit" in page


def test_another_store_gives_the_same_bytes_and_the_same_etag(
    client: TestClient, harness: ApiHarness, name: str, whole: bytes, folder: Path, tmp_path: Path
) -> None:
    etag = client.get(f"/v1/models/{name}/download").headers["etag"]
    harness.blobs = LocalBlobStore(tmp_path / "another")
    store_adapter(harness.blobs, folder)
    with TestClient(harness.app(), base_url=LOCAL) as other:
        again = other.get(f"/v1/models/{name}/download")
    assert (again.content, again.headers["etag"]) == (whole, etag)


def test_another_adapter_has_another_etag(client: TestClient, harness: ApiHarness, name: str, tmp_path: Path) -> None:
    store = StoreInUse(harness.database, harness.blobs)
    other = store.publish(store.claimed(), write_adapter(tmp_path / "other", WEIGHT_BYTES[::-1]))
    etags = {client.get(f"/v1/models/{each}/download").headers["etag"] for each in (name, other)}
    assert len(etags) == 2


def test_a_card_that_changed_changes_the_etag_and_nothing_before_itself(
    client: TestClient, harness: ApiHarness, name: str, whole: bytes
) -> None:
    url = f"/v1/models/{name}/download"
    begun = client.get(url).headers["etag"]
    harness.registry._entries[BASE] = harness.registry.get(BASE).model_copy(update={"license": "mit"})
    now = client.get(url)
    assert now.headers["etag"] != begun
    assert "tiny is licensed under mit" in readme_of(now.content)
    weights_end = whole.index(WEIGHT_BYTES) + len(WEIGHT_BYTES)
    assert now.content[:weights_end] == whole[:weights_end]
    headers = {"Range": f"bytes={weights_end}-", "If-Range": begun}
    assert (client.get(url, headers=headers).status_code, client.get(url, headers=headers).content) == (
        200,
        now.content,
    )
    # who asks without If-Range has the archive as it is now, but for the card where it broke off within that
    assert whole[:weights_end] + client.get(url, headers={"Range": f"bytes={weights_end}-"}).content == now.content


def ranges(size: int) -> Iterator[tuple[str, int, int]]:
    yield "bytes=0-0", 0, 1
    yield "bytes=0-", 0, size
    yield f"bytes={size - 1}-", size - 1, size
    yield "bytes=-7", size - 7, size
    yield f"bytes=-{size + 1}", 0, size
    yield f"bytes=100-{size + 100}", 100, size
    yield "bytes=511-513", 511, 514  # over the edge of a header
    for start in range(0, size, 701):
        yield f"bytes={start}-{start + 999}", start, min(start + 1000, size)


def test_every_part_is_the_same_bytes_of_the_whole(client: TestClient, name: str, whole: bytes) -> None:
    for asked, start, stop in ranges(len(whole)):
        response = client.get(f"/v1/models/{name}/download", headers={"Range": asked})
        assert (response.status_code, response.content) == (206, whole[start:stop]), asked
        assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
        assert int(response.headers["content-length"]) == stop - start


@pytest.mark.parametrize("asked", ["bytes=3-1", "bytes=1-2,5-6", "lines=1-2", "bytes=", "bytes=-", "bytes=x-1"])
def test_what_is_no_single_range_is_answered_with_all(client: TestClient, name: str, whole: bytes, asked: str) -> None:
    response = client.get(f"/v1/models/{name}/download", headers={"Range": asked})
    assert (response.status_code, response.content) == (200, whole)


def test_a_part_of_what_it_no_longer_is_is_answered_with_all(client: TestClient, name: str, whole: bytes) -> None:
    etag = client.get(f"/v1/models/{name}/download").headers["etag"]
    for only_if, status in ((etag, 206), ('"another"', 200), (f"W/{etag}", 200)):
        headers = {"Range": "bytes=9-", "If-Range": only_if}
        response = client.get(f"/v1/models/{name}/download", headers=headers)
        assert (response.status_code, response.content) == (status, whole[9:] if status == 206 else whole)


@pytest.mark.parametrize("asked", ["bytes={size}-", "bytes=999999999999999999-", "bytes=-0"])
def test_bytes_behind_the_end_are_refused_with_the_size(
    client: TestClient, name: str, whole: bytes, asked: str
) -> None:
    response = client.get(f"/v1/models/{name}/download", headers={"Range": asked.format(size=len(whole))})
    assert (response.status_code, response.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(whole)}"


def test_a_checkpoint_is_downloaded_by_its_name(client: TestClient, harness: ApiHarness, folder: Path) -> None:
    store = StoreInUse(harness.database, harness.blobs)
    lease = store.claimed()
    stored = store_adapter(harness.blobs, write_adapter(folder, WEIGHT_BYTES))
    with harness.database.write() as session:
        adapters.add_checkpoint(session, lease, StoredCheckpoint(3, "ft:tiny:local::x:ckpt-step-3", stored, {}), 1)
    response = client.get("/v1/models/ft:tiny:local::x:ckpt-step-3/download")
    assert response.status_code == 200
    assert WEIGHT_BYTES in response.content


def test_an_alias_is_downloaded_as_what_it_stands_for(client: TestClient, name: str, whole: bytes) -> None:
    assert client.put("/v1/models/aliases/desk@prod", json={"model": name}).status_code == 200
    assert client.get("/v1/models/desk@prod/download").content == whole
    assert client.put("/v1/models/aliases/desk@base", json={"model": BASE}).status_code == 200
    assert client.get("/v1/models/desk@base/download").json()["error"]["code"] == "base_model_protected"


def test_base_models_and_unknown_names_are_refused(client: TestClient, name: str) -> None:
    client.delete(f"/v1/models/{name}")
    for asked, status, code in (
        (BASE, 409, "base_model_protected"),
        ("ft:none", 404, "model_not_found"),
        (name, 404, "model_not_found"),
    ):
        response = client.get(f"/v1/models/{asked}/download")
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_of_an_adapter_whose_bytes_have_changed_nothing_is_sent(
    client: TestClient, harness: ApiHarness, name: str
) -> None:
    [path] = [path for path in harness.stored_bytes() if path.read_bytes() == WEIGHT_BYTES]
    path.write_bytes(WEIGHT_BYTES[:-1] + b"!")
    response = client.get(f"/v1/models/{name}/download")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "blob_damaged")
    assert b"!" not in response.content
