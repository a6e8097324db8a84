"""Uploading, listing and deleting files over HTTP, and every way an upload can go wrong."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import StorageFull
from core.settings import Settings
from core.store.blobs import BlobWriter, LocalBlobStore
from core.store.references.collector import Collector
from tests.app.conftest import BASE, COLUMNS, EXAMPLES, LOCAL, ApiHarness, upload
from tests.harness.parquet_files import parquet_of


def test_an_upload_is_checked_and_kept(client: TestClient) -> None:
    file = upload(client).json()
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(EXAMPLES),
        "created_at": file["created_at"],
        "filename": "data.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
        "expires_at": None,
        "examples": 100,
        "file_type": "jsonl",
        "format": "prompt_completion",
        "columns": None,
    }
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert client.get(f"/v1/files/{file['id']}/content").content == EXAMPLES


def test_columns_of_every_example_are_told(client: TestClient) -> None:
    file = upload(client, COLUMNS).json()
    assert (file["format"], file["columns"]) == ("columns", ["question", "answer"])


def test_a_file_larger_than_a_network_packet_arrives_whole(harness: ApiHarness) -> None:
    content = b'{"prompt": "' + b"x" * 1000 + b'", "completion": "y"}\n'
    content *= 1000
    harness.settings = harness.settings.model_copy(update={"max_upload_bytes": 2 * 2**20})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        file = upload(client, content).json()
        assert (file["examples"], file["bytes"]) == (1000, len(content))
        assert client.get(f"/v1/files/{file['id']}/content").content == content


def test_broken_lines_are_named_in_a_file_with_status_error(client: TestClient) -> None:
    file = upload(client, b'{"prompt": "a", "completion": "b"}\n{broken\n{"prompt": 1}\n').json()
    assert file["status"] == "error"
    assert file["status_details"].startswith("line 2: ")
    assert "; line 3: " in file["status_details"]


def test_at_most_20_lines_are_named_and_the_others_counted(client: TestClient) -> None:
    details = upload(client, b"{broken\n" * 25).json()["status_details"]
    assert "line 20: " in details
    assert "line 21: " not in details
    assert details.endswith("; and 5 more")


def test_an_empty_file_is_an_error_that_says_so(client: TestClient) -> None:
    file = upload(client, b"").json()
    assert file["status"] == "error"
    assert "no examples" in file["status_details"]


def test_csv_and_parquet_are_checked_and_kept_as_they_are(client: TestClient) -> None:
    columns = {"question": ["q", "r"], "references": [[{"title": "t"}], []], "answer": ["a", "b"]}
    for filename, content, names in (
        ("train.csv", b"question,answer\nq,a\nr,b\n", ["question", "answer"]),
        ("train.parquet", parquet_of(columns), ["question", "references", "answer"]),
    ):
        file = upload(client, content, filename=filename).json()
        assert (file["status"], file["file_type"]) == ("processed", filename.removeprefix("train."))
        assert (file["examples"], file["format"], file["columns"]) == (2, "columns", names)
        assert client.get(f"/v1/files/{file['id']}/content").content == content


def test_broken_lines_of_csv_and_rows_of_parquet_are_named(client: TestClient) -> None:
    for filename, content, line in (
        ("train.csv", b'prompt,completion\n"a\nb",c\nd\ne,f\n', 4),
        ("train.parquet", parquet_of({"prompt": ["a", None, "e"], "completion": ["c", "d", "f"]}), 2),
    ):
        file = upload(client, content, filename=filename).json()
        assert (file["status"], file["examples"]) == ("error", 2)
        assert file["status_details"].startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("train.jsonl", parquet_of({"prompt": ["a"], "completion": ["b"]})),
        ("train.parquet", EXAMPLES),
        ("train.parquet", b""),
        ("train.csv", EXAMPLES),
        ("train.jsonl", b"PK\x03\x04 and so on"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_and_nothing_is_kept(
    client: TestClient, harness: ApiHarness, filename: str, content: bytes
) -> None:
    response = upload(client, content, filename=filename)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "file_type_unclear"
    assert response.json()["error"]["param"] == "file"
    assert harness.stored_bytes() == []


def test_parquet_is_refused_where_its_reader_is_not_installed(
    client: TestClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = parquet_of({"prompt": ["a"], "completion": ["b"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    response = upload(client, content, filename="train.parquet")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "parquet_not_installed"
    assert "loramill[tables]" in response.json()["error"]["message"]
    assert harness.stored_bytes() == []


@pytest.mark.parametrize("purpose", ["batch", "fine_tune", ""])
def test_other_purposes_are_refused_and_nothing_is_kept(client: TestClient, harness: ApiHarness, purpose: str) -> None:
    response = upload(client, purpose=purpose)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "purpose"
    assert harness.stored_bytes() == []


def test_expiry_is_refused_by_name(client: TestClient, harness: ApiHarness) -> None:
    response = client.post(
        "/v1/files",
        files={"file": ("data.jsonl", EXAMPLES)},
        data={"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "expires_after"
    assert response.json()["error"]["code"] == "unsupported_parameter"
    assert harness.stored_bytes() == []


def test_a_form_without_a_file_is_refused(client: TestClient) -> None:
    response = client.post("/v1/files", files={"purpose": (None, "fine-tune")})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary was announced"),
        ("multipart/form-data; boundary=b", b"not a form"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ncut off'),
    ],
)
def test_what_is_not_a_whole_form_is_refused(
    client: TestClient, harness: ApiHarness, content_type: str, body: bytes
) -> None:
    response = client.post("/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert harness.stored_bytes() == []


def test_a_file_name_cannot_be_a_path(client: TestClient) -> None:
    response = client.post("/v1/files", files={"file": ("../../etc/x.jsonl", EXAMPLES)}, data={"purpose": "fine-tune"})
    assert response.json()["filename"] == "x.jsonl"


@pytest.mark.parametrize("has_length", [True, False])
def test_a_file_over_the_limit_is_refused_and_nothing_is_kept(
    client: TestClient, harness: ApiHarness, settings: Settings, has_length: bool
) -> None:
    line = b'{"prompt": "a", "completion": "b"}\n'
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + line * (settings.max_upload_bytes // len(line) + 1)
        + (b"" if not has_length else line * 10_000)
        + b"\r\n--b--\r\n"
    )
    pieces: Any = body if has_length else (body[at : at + 5000] for at in range(0, len(body), 5000))
    response = client.post("/v1/files", content=pieces, headers={"content-type": "multipart/form-data; boundary=b"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "file_too_large"
    assert harness.stored_bytes() == []


class FullStore(LocalBlobStore):
    """A store whose disk is full."""

    @contextmanager
    def write(self) -> Iterator[BlobWriter]:
        with super().write() as writer:
            yield FullWriter(writer)


class FullWriter:
    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data[:10])
        raise StorageFull

    def commit(self) -> Any:
        raise AssertionError("what could not be written must not be committed")


def test_a_full_disk_is_507_and_nothing_is_kept(harness: ApiHarness, settings: Settings) -> None:
    harness.blobs = FullStore(settings.store_folder)
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = upload(client)
        assert response.status_code == 507
        assert response.json()["error"]["code"] == "storage_full"
        assert response.headers["x-should-retry"] == "false"
        assert client.get("/v1/files").json()["data"] == []
    assert harness.stored_bytes() == []


def test_a_client_that_leaves_mid_upload_leaves_nothing(harness: ApiHarness) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": head + EXAMPLES, "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")],
    }

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def leave() -> None:
        app = harness.app()
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(leave())
    assert sent[0]["status"] == 499
    assert harness.stored_bytes() == []


def test_files_are_paged_in_both_orders(client: TestClient) -> None:
    ids = [upload(client).json()["id"] for _ in range(3)]
    first = client.get("/v1/files", params={"limit": 2}).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    assert (first["first_id"], first["last_id"]) == (ids[2], ids[1])
    rest = client.get("/v1/files", params={"limit": 2, "after": first["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    ascending = client.get("/v1/files", params={"order": "asc"}).json()
    assert [file["id"] for file in ascending["data"]] == ids


def test_an_unknown_query_parameter_is_refused(client: TestClient) -> None:
    response = client.get("/v1/files", params={"colour": "red"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "colour"


def test_deleted_bytes_go_only_with_their_last_file(client: TestClient, harness: ApiHarness) -> None:
    first, second = (upload(client).json()["id"] for _ in range(2))
    why = f"{len(EXAMPLES):,} bytes stay: file {second} needs them too"
    told = {"id": first, "object": "file", "frees_bytes": 0, "keeps": [why]}
    assert client.delete(f"/v1/files/{first}?dry_run=true").json() == told | {"deleted": False}
    assert client.delete(f"/v1/files/{first}").json() == told | {"deleted": True}
    assert client.get(f"/v1/files/{second}/content").content == EXAMPLES
    collector = Collector(harness.database, harness.blobs, grace_s=0)
    assert collector.collect() == []
    last = client.delete(f"/v1/files/{second}").json()
    assert (last["frees_bytes"], last["keeps"]) == (len(EXAMPLES), [])
    assert client.get(f"/v1/files/{second}").status_code == 404
    assert len(harness.stored_bytes()) == 2  # the bytes, and the lock: a request only lets go of them
    collector.collect()
    assert [path.name for path in harness.stored_bytes()] == ["collecting.lock"]


def test_a_file_that_a_job_waits_for_cannot_be_deleted(client: TestClient, file_id: str) -> None:
    client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
    response = client.delete(f"/v1/files/{file_id}")
    assert response.status_code == 409
    assert response.headers["x-should-retry"] == "false"
    assert client.get(f"/v1/files/{file_id}/content").content == EXAMPLES


def test_a_missing_file_is_404(client: TestClient) -> None:
    for response in (
        client.get("/v1/files/file-x"),
        client.get("/v1/files/file-x/content"),
        client.delete("/v1/files/file-x"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "file_not_found"


def test_the_store_is_where_the_settings_say(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    (stored,) = harness.stored_bytes()
    assert stored.is_relative_to(Path(harness.settings.home) / "store" / "blobs")
