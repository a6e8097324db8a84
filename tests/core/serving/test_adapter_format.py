import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import AdapterInvalid
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    AdapterOrigin,
    TrainedPrompt,
    digest_file,
    parse_manifest,
    write_manifest,
)
from core.serving.generation import Conversation, Turn, Variables
from core.text.render_settings import PromptFormat

PROMPTS = (
    TrainedPrompt(source="Grüße", text="Grüße", ids=(71, 114)),
    TrainedPrompt(source=Variables(variables={"q": 2**70, "r": [1.0, None, True, {"x": "y"}]}), text="", ids=(0,)),
    TrainedPrompt(source=Conversation(messages=(Turn(role="user", content="{{q}}"),)), text="<user>", ids=(5, 6)),
)


def _write(folder: Path, **changes: Any) -> str:
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / CONFIG).write_bytes(b"{}")
    fields: dict[str, Any] = {
        "base_model": "tiny",
        "base_model_fingerprint": "a" * 64,
        "tokenizer_sha256": "b" * 64,
        "chat_template_sha256": None,
        "example_format": "columns",
        "prompt_format": PromptFormat(prompt="{{q}}", completion="{{a}}"),
        "prompts": PROMPTS,
        "job_id": "ftjob-1",
        "step": 3,
        "trained_on": "2 examples …",
        "lora": LoraSpec(target_modules=("q_proj",)),
    }
    return write_manifest(folder, AdapterOrigin(**(fields | changes)))


def test_the_digest_is_that_of_the_manifests_bytes(tmp_path: Path) -> None:
    assert _write(tmp_path) == hashlib.sha256((tmp_path / MANIFEST).read_bytes()).hexdigest()


def test_equal_adapters_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    assert _write(tmp_path) == _write(tmp_path)
    assert _write(tmp_path, step=4) != _write(tmp_path, step=3)


def test_the_manifest_is_canonical_json(tmp_path: Path) -> None:
    _write(tmp_path)
    content = (tmp_path / MANIFEST).read_text("utf-8")
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    _write(tmp_path)
    manifest = parse_manifest((tmp_path / MANIFEST).read_bytes())
    assert manifest.files == {WEIGHTS: digest_file(tmp_path / WEIGHTS), CONFIG: digest_file(tmp_path / CONFIG)}
    assert digest_file(tmp_path / WEIGHTS).bytes == len(b"weights")
    assert manifest.prompt_format == PromptFormat(prompt="{{q}}", completion="{{a}}")
    assert repr(manifest.prompts) == repr(PROMPTS)  # which tells 1 from 1.0 and True
    assert manifest.lora == LoraSpec(target_modules=("q_proj",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: fields.pop("base_model_fingerprint"),
        lambda fields: fields.update(format=2),
        lambda fields: fields["files"].pop(WEIGHTS),
        lambda fields: fields["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}),
        lambda fields: fields["files"][CONFIG].update(sha256="../x"),
        lambda fields: fields.update(code="import os"),
        lambda fields: fields["prompts"].append(fields["prompts"][0]),
        lambda fields: fields["prompts"][0].update(ids=[-1]),
        lambda fields: fields["prompts"][0].update(source={"variables": {}, "messages": []}),
        lambda fields: fields["prompts"][0].update(source=[1]),
    ],
    ids=[
        "field missing",
        "format",
        "file missing",
        "path",
        "digest",
        "unknown field",
        "too many prompts",
        "no token id",
        "two sources",
        "no source",
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage: Any) -> None:
    _write(tmp_path)
    fields = json.loads((tmp_path / MANIFEST).read_bytes())
    damage(fields)
    with pytest.raises(AdapterInvalid):
        parse_manifest(json.dumps(fields).encode())


def test_bytes_that_are_no_json_are_refused() -> None:
    with pytest.raises(AdapterInvalid):
        parse_manifest(b"\x00\x01")
