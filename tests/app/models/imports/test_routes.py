"""Imports over HTTP: whichever way an adapter is sent, it becomes a model like any other."""

import io
import json
import tarfile

import pytest
from starlette.testclient import TestClient

from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from core.store import adapters
from core.store.references.collector import Collector
from tests.app.conftest import BASE, LOCAL, ApiHarness, upload
from tests.app.models.imports.sent_adapter import (
    RAW,
    adapter,
    safetensors,
    send,
    send_files,
    tar,
    tar_gz,
    tensors_of,
    zip_of,
)

FORMAT = {"prompt": "Q {{question}} A", "completion": " {{answer}}"}
PACKED = {
    "tar": tar(adapter()),
    "tar.gz": tar_gz(adapter()),
    "zip": zip_of(adapter()),
    "stored zip": zip_of(adapter(), compression=0),
    "tar of a folder": tar({f"out/mine/{name}": content for name, content in adapter().items()}),
    "tar with dots": tar({f"./{name}": content for name, content in adapter().items()}),
}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED.keys())
def test_an_archive_of_any_kind_becomes_a_model(client: TestClient, harness: ApiHarness, packed: bytes) -> None:
    answer = send(client, packed, RAW | {"suffix": "mine"})
    assert answer.status == 200, answer
    name = answer.body["id"]
    assert name.startswith("ft:tiny:local:mine:")
    assert answer.body["parent"] == BASE
    assert (answer.body["rendering"], answer.body["ignored_files"]) == ("unverified", [])
    listed = client.get("/v1/models").json()["data"][-1]
    assert listed == client.get(f"/v1/models/{name}").json()
    assert answer.body == listed | {"ignored_files": []}
    client.post("/v1/completions", json={"model": name, "prompt": "a"})
    with harness.database.read() as session:
        served = adapters.find_served(session, name)
    assert served is not None
    assert harness.engine.requests[0].adapter == served.adapter_sha256


def test_the_two_files_by_themselves_become_the_same_model(client: TestClient, harness: ApiHarness) -> None:
    names = [send(client, tar(adapter())).body["id"], send_files(client, adapter()).body["id"]]
    with harness.database.read() as session:
        served = {adapters.find_served(session, name) for name in names}
    assert len(served) == 1
    assert len(set(names)) == 2


def test_what_is_imported_is_downloaded_as_it_was_sent(client: TestClient) -> None:
    name = send(client, zip_of(adapter())).body["id"]
    with tarfile.open(fileobj=io.BytesIO(client.get(f"/v1/models/{name}/download").content)) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert {file: contents[file] for file in (CONFIG, WEIGHTS)} == adapter()
    manifest = json.loads(contents[MANIFEST])
    assert (manifest["base_model"], manifest["base_model_fingerprint"]) == (BASE, "0" * 64)
    assert manifest["prompts"] == []


def test_a_download_is_imported_by_its_manifest_alone_and_stays_the_same_adapter(
    client: TestClient, harness: ApiHarness
) -> None:
    first = send(client, tar(adapter()), RAW | {"prompt_format": json.dumps(FORMAT)}).body["id"]
    again = send(client, client.get(f"/v1/models/{first}/download").content, {})
    assert again.status == 200, again
    assert again.body["ignored_files"] == ["README.md"]
    with harness.database.read() as session:
        assert adapters.find_served(session, first) == adapters.find_served(session, again.body["id"])


def test_its_prompt_format_is_kept(client: TestClient, harness: ApiHarness) -> None:
    name = send(client, tar(adapter()), RAW | {"prompt_format": json.dumps(FORMAT)}).body["id"]
    with tarfile.open(fileobj=io.BytesIO(client.get(f"/v1/models/{name}/download").content)) as archive:
        manifest = json.loads(archive.extractfile(MANIFEST).read())  # type: ignore[union-attr]
    assert (manifest["prompt_format"], manifest["example_format"]) == (FORMAT, "columns")


def test_files_beside_the_adapter_are_named_and_not_read(client: TestClient) -> None:
    answer = send(client, tar({"README.md": b"\xff", "tokenizer.json": b"{", **adapter()}))
    assert answer.body["ignored_files"] == ["README.md", "tokenizer.json"]


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"v_proj": 5}},
        {"target_modules": ["model.layers.0.self_attn.q_proj", "v_proj"]},
        {"lora_alpha": 5000},
    ],
    ids=str,
)
def test_every_shape_that_is_served_is_taken(client: TestClient, config: dict[str, object]) -> None:
    assert send(client, tar(adapter(**config))).status == 200


def test_dora_is_taken_with_its_lengths(client: TestClient) -> None:
    tensors = tensors_of()
    for name, outputs in (("q_proj", 16), ("v_proj", 8)):
        key = f"base_model.model.model.layers.0.self_attn.{name}.lora_magnitude_vector"
        tensors[key] = ("F32", (outputs,), b"\0\0\x80?" * outputs)
    files = adapter(use_dora=True) | {WEIGHTS: safetensors(tensors)}
    assert send(client, tar(files)).status == 200
    assert send(client, tar(adapter(use_dora=True))).message.endswith("q_proj has no lora_magnitude_vector tensor")


def test_numbers_of_16_bits_are_taken(client: TestClient) -> None:
    assert send(client, tar(adapter() | {WEIGHTS: safetensors(tensors_of(kind="BF16"))})).status == 200


def test_the_engine_is_asked_to_load_it(client: TestClient, harness: ApiHarness) -> None:
    name = send(client, tar(adapter())).body["id"]
    with harness.database.read() as session:
        served = adapters.find_served(session, name)
    assert served is not None
    assert harness.engine.warmed == [served.adapter_sha256]


def test_a_job_goes_on_from_it_in_its_shape(client: TestClient, file_id: str) -> None:
    name = send(client, tar(adapter())).body["id"]
    body = {"model": BASE, "training_file": file_id, "continue_from": name}
    job = client.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["continue_from"], job["lora"]["rank"], job["lora"]["alpha"]) == (name, 2, 4)
    assert sorted(job["lora"]["target_modules"]) == ["q_proj", "v_proj"]


def test_a_job_does_not_go_on_from_a_shape_that_no_job_has(client: TestClient, file_id: str) -> None:
    name = send(client, tar(adapter(rank_pattern={"q_proj": 2}))).body["id"]
    body = {"model": BASE, "training_file": file_id, "continue_from": name}
    error = client.post("/v1/fine_tuning/jobs", json=body).json()["error"]
    assert (error["param"], "cannot be trained further" in error["message"]) == ("continue_from", True)


def test_it_is_evaluated_as_one_whose_training_nobody_knows(harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        name = send(client, tar(adapter())).body["id"]
        body = {"models": [BASE, name], "file": upload(client).json()["id"]}
        assert client.post("/v1/evaluations", json=body).json()["unchecked_models"] == [name]


def test_no_list_of_jobs_has_an_import(client: TestClient) -> None:
    send(client, tar(adapter()))
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert client.get("/v1/evaluations").json()["data"] == []


def test_its_card_says_what_was_verified_and_goes_with_its_download(client: TestClient) -> None:
    name = send(client, tar(adapter())).body["id"]
    card = client.get(f"/v1/models/{name}/card").text
    assert "It was not trained here" in card
    assert "whoever imported it said so" in card
    downloaded = client.get(f"/v1/models/{name}/download").content
    with tarfile.open(fileobj=io.BytesIO(downloaded)) as archive:
        assert archive.extractfile("README.md").read().decode() == card  # type: ignore[union-attr]


def test_its_suffix_makes_it_the_next_version_of_a_family(client: TestClient) -> None:
    made = [send(client, tar(adapter()), RAW | {"suffix": "mine"}).body for _ in range(2)]
    assert [(model["suffix"], model["version"]) for model in made] == [("mine", 1), ("mine", 2)]
    assert send(client, tar(adapter())).body["version"] is None
    assert client.put("/v1/models/aliases/mine@prod", json={"model": made[1]["id"]}).status_code == 200
    described = client.get("/v1/models/mine@prod").json()
    assert (described["rendering"], described["version"]) == ("unverified", 2)


def test_deleting_it_frees_its_bytes(client: TestClient, harness: ApiHarness) -> None:
    kept = send(client, tar(adapter())).body["id"]
    other = safetensors({name: (kind, shape, b"\1" * len(n)) for name, (kind, shape, n) in tensors_of().items()})
    gone = send(client, tar(adapter() | {WEIGHTS: other})).body["id"]
    frees = client.delete(f"/v1/models/{gone}").json()["frees_bytes"]
    freed = Collector(harness.database, harness.blobs, grace_s=0).collect()
    assert sum(blob.bytes for blob in freed) == frees > len(other)
    assert client.get(f"/v1/models/{gone}").status_code == 404
    assert client.get(f"/v1/models/{kept}/download").status_code == 200


def test_a_base_models_other_name_here_is_said(client: TestClient) -> None:
    made = send(client, tar(adapter())).body["id"]
    with tarfile.open(fileobj=io.BytesIO(client.get(f"/v1/models/{made}/download").content)) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    files[MANIFEST] = files[MANIFEST].replace(b'"base_model":"tiny"', b'"base_model":"small"')
    assert send(client, tar(files), {}).refusal == (400, "invalid_parameter", "base_model")
    assert send(client, tar(files), {"base_model": BASE}).status == 200
