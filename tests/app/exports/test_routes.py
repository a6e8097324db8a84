"""Exports over HTTP: what is refused before anything is queued, how they are looked up, downloaded and deleted."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.exports.spec import ExportSpec
from core.jobs.kind import JobKind
from core.store import files, jobs
from core.store.references.collector import Collector
from core.text.held_out import draw, hash_of
from tests.app.conftest import BASE, ApiHarness
from tests.app.exports.publishing import end_export, publish

PATH = "/v1/models/exports"
MADE = {"model.gguf": bytes(range(256)) * 40, "Modelfile": b"FROM ./model.gguf\n", "a/b.json": b"{}"}


@pytest.fixture
def name(harness: ApiHarness, tmp_path: Path, file_id: str) -> str:
    return publish(harness, tmp_path / "adapter", file_id=file_id)


def ask(client: TestClient, name: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return client.post(f"/v1/models/{name}/exports", json=fields, headers=headers)


def refusal(client: TestClient, name: str, **fields: Any) -> tuple[int, str | None, str]:
    response = ask(client, name, **fields)
    error = response.json()["error"]
    assert client.get(PATH).json()["data"] == []
    return response.status_code, error["param"], error["message"]


def spec_of(harness: ApiHarness, export_id: str) -> ExportSpec:
    with harness.database.read() as session:
        return ExportSpec.model_validate(jobs.get(session, export_id, JobKind.EXPORT).spec)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "format", "required"),
        ({"format": "onnx"}, "format", "'peft', 'merged', 'gguf' or 'vllm'"),
        ({"format": "merged", "dtype": "f16"}, "dtype", "'bf16' or 'fp32'"),
        ({"format": "gguf", "type": "q4_k_m"}, "type", "'f16', 'bf16', 'q8_0' or 'lora'"),
        ({"format": "gguf", "dtype": "bf16"}, "dtype", "is of the format merged"),
        ({"format": "merged", "type": "f16"}, "type", "is of the format gguf"),
        ({"format": "peft", "quantize": True}, "quantize", "not supported"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(
    client: TestClient, name: str, fields: dict[str, Any], param: str, words: str
) -> None:
    status, named, message = refusal(client, name, **fields)
    assert (status, named) == (400, param)
    assert words in message


@pytest.mark.parametrize(
    ("config", "job", "fields", "words"),
    [
        ({"use_dora": True}, {}, {"format": "gguf", "type": "lora"}, "it is a DoRA"),
        ({"use_dora": True}, {}, {"format": "vllm"}, "it is a DoRA"),
        ({"rank_pattern": {"q_proj": 2}}, {}, {"format": "vllm"}, "by patterns"),
        ({}, {"quantization": "nf4"}, {"format": "merged"}, "in nf4"),
        ({}, {"quantization": "nf4"}, {"format": "gguf"}, "in nf4"),
    ],
)
def test_an_adapter_that_cannot_be_exported_so_is_refused(
    client: TestClient,
    harness: ApiHarness,
    tmp_path: Path,
    config: dict[str, Any],
    job: dict[str, Any],
    fields: dict[str, str],
    words: str,
) -> None:
    name = publish(harness, tmp_path / "adapter", config=config, **job)
    status, named, message = refusal(client, name, **fields)
    assert (status, named) == (400, "format")
    assert message.startswith(f"format: {name} cannot be exported as ")
    assert words in message


def test_an_architecture_without_names_in_gguf_is_refused(client: TestClient, harness: ApiHarness, name: str) -> None:
    (harness.settings.base_models_folder / BASE / "config.json").write_text('{"model_type": "gpt_neox"}')
    assert refusal(client, name, format="gguf")[:2] == (400, "format")
    assert refusal(client, name, format="gguf", type="lora")[:2] == (400, "format")
    assert ask(client, name, format="merged").status_code == 200


def test_a_base_model_is_no_export(client: TestClient) -> None:
    response = ask(client, BASE, format="peft")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "base_model_protected")
    assert ask(client, "ft:none", format="peft").status_code == 404


def test_an_export_is_complete_when_it_is_queued(client: TestClient, harness: ApiHarness, name: str) -> None:
    export = ask(client, name, format="gguf").json()
    assert (export["status"], export["format"], export["type"], export["dtype"]) == ("queued", "gguf", "f16", None)
    assert (export["queue_position"], export["files"], export["tried"]) == (1, [], None)
    assert harness.notifier.notified == [export["id"]]
    prompts = spec_of(harness, export["id"]).prompts
    assert [prompt.part for prompt in prompts] == ["trained", *["held_out"] * 5, *["general"] * 4]
    assert prompts[0].ids == (112, 49)
    assert ask(client, name, format="merged").json()["dtype"] == "bf16"


def test_prompts_are_those_that_the_training_held_out(
    client: TestClient, harness: ApiHarness, name: str, file_id: str
) -> None:
    prompts = spec_of(harness, ask(client, name, format="peft").json()["id"]).prompts
    held_out = {bytes(prompt.ids).decode() for prompt in prompts if prompt.part == "held_out"}
    drawn = draw(f"p{n}" for n in range(100))
    assert all(hash_of(prompt) in drawn for prompt in held_out)


def test_without_its_file_an_adapter_is_tried_by_the_others(
    client: TestClient, harness: ApiHarness, name: str, file_id: str
) -> None:
    with harness.database.write() as session:
        sha256 = files.get(session, file_id).sha256
    with harness.blobs.alone(0):
        harness.blobs.delete(sha256)
    prompts = spec_of(harness, ask(client, name, format="peft").json()["id"]).prompts
    assert {prompt.part for prompt in prompts} == {"trained", "general"}


def test_the_same_key_gives_the_same_export_of_the_same_model(
    client: TestClient, harness: ApiHarness, name: str, tmp_path: Path
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = ask(client, name, headers, format="peft").json()["id"]
    assert ask(client, name, headers, format="peft").json()["id"] == first
    assert ask(client, name, headers, format="vllm").status_code == 422
    other = publish(harness, tmp_path / "other", name="ft:tiny:local::2")
    assert ask(client, other, headers, format="peft").status_code == 422


def test_exports_are_listed_newest_first_and_cancelled(client: TestClient, name: str) -> None:
    ids = [ask(client, name, format="peft").json()["id"] for _ in range(3)]
    listed = client.get(PATH, params={"limit": 2}).json()
    assert [one["id"] for one in listed["data"]] == [ids[2], ids[1]]
    assert listed["has_more"]
    assert client.post(f"{PATH}/{ids[0]}/cancel").json()["status"] == "cancelled"
    assert client.get(f"{PATH}/{ids[0]}").json()["status"] == "cancelled"
    events = client.get(f"{PATH}/{ids[0]}/events").json()["data"]
    assert (events[0]["object"], events[0]["message"]) == (
        "model.export.event",
        "The job was cancelled before it started",
    )


@pytest.mark.parametrize("call", ["", "/events", "/download"])
def test_an_unknown_export_is_not_found(client: TestClient, call: str) -> None:
    response = client.get(f"{PATH}/export-none{call}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "export_not_found")
    assert client.post(f"{PATH}/export-none/cancel").status_code == 404
    assert client.delete(f"{PATH}/export-none").status_code == 404


class TestOfAnEndedExport:
    @pytest.fixture
    def export_id(self, client: TestClient, harness: ApiHarness, name: str) -> str:
        export_id = str(ask(client, name, format="gguf").json()["id"])
        assert client.get(f"{PATH}/{export_id}/download").json()["error"]["code"] == "export_not_ready"
        end_export(harness, export_id, MADE)
        return export_id

    def test_files_and_findings_are_told(self, client: TestClient, export_id: str) -> None:
        export = client.get(f"{PATH}/{export_id}").json()
        assert {file["name"]: file["bytes"] for file in export["files"]} == {
            name: len(content) for name, content in MADE.items()
        }
        assert export["tried"]["prompts"][0]["part"] == "held_out"
        assert export["text"].startswith("On 2 prompts")
        assert export["bounds"]["divergence_nats"] > 0

    def test_the_download_is_a_tar_of_them(self, client: TestClient, export_id: str) -> None:
        response = client.get(f"{PATH}/{export_id}/download")
        with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert contents == MADE

    def test_a_part_of_it_is_the_same_bytes(self, client: TestClient, export_id: str) -> None:
        whole = client.get(f"{PATH}/{export_id}/download")
        part = client.get(
            f"{PATH}/{export_id}/download", headers={"Range": "bytes=700-1999", "If-Range": whole.headers["etag"]}
        )
        assert part.status_code == 206
        assert part.content == whole.content[700:2000]

    def test_once_deleted_its_bytes_are_freed(self, client: TestClient, harness: ApiHarness, export_id: str) -> None:
        stored = [file["sha256"] for file in client.get(f"{PATH}/{export_id}").json()["files"]]
        collector = Collector(harness.database, harness.blobs, grace_s=0)
        collector.collect()
        assert all(map(harness.blobs.exists, stored))
        tried = client.delete(f"{PATH}/{export_id}", params={"dry_run": True}).json()
        assert (tried["deleted"], len(client.get(f"{PATH}/{export_id}").json()["files"])) == (False, len(MADE))
        deleted = client.delete(f"{PATH}/{export_id}").json()
        assert deleted["frees_bytes"] == sum(map(len, MADE.values()))
        collector.collect()
        assert not any(map(harness.blobs.exists, stored))
        export = client.get(f"{PATH}/{export_id}").json()
        assert (export["status"], export["files"]) == ("succeeded", [])
        assert "deleted" in client.get(f"{PATH}/{export_id}/download").json()["error"]["message"]
