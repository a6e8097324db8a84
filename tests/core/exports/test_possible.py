"""What is in the way of an export is told before any weight is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.exports.possible import find_obstacle
from core.serving.peft_config import LoraConfig
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer

LLAMA: dict[str, Any] = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}


def lora(**fields: Any) -> LoraConfig:
    said: dict[str, Any] = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    return LoraConfig(**said | fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_byte_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def obstacle(folder: Path, format_: Any, type_: Any = None, *, quantization: str | None = None, **fields: Any) -> str:
    found = find_obstacle(
        format_,
        type_,
        base_model_folder=folder,
        tokenizer=TextTokenizer.from_folder(folder),
        lora=lora(**fields),
        quantization=quantization,
    )
    return found or ""


@pytest.mark.parametrize("asked", [("peft", None), ("vllm", None), ("merged", None), ("gguf", "f16"), ("gguf", "lora")])
def test_nothing_is_in_the_way_of_a_plain_adapter(folder: Path, asked: tuple[str, str | None]) -> None:
    assert obstacle(folder, *asked) == ""


@pytest.mark.parametrize("asked", [("vllm", None), ("gguf", "lora")])
def test_a_dora_is_exported_with_the_weights_alone(folder: Path, asked: tuple[str, str | None]) -> None:
    assert "it is a DoRA" in obstacle(folder, *asked, use_dora=True)
    for whole in (("merged", None), ("gguf", "q8_0"), ("peft", None)):
        assert obstacle(folder, *whole, use_dora=True) == ""


@pytest.mark.parametrize("patterns", [{"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 2}}])
def test_patterns_are_nothing_for_vllm(folder: Path, patterns: dict[str, Any]) -> None:
    assert "by patterns" in obstacle(folder, "vllm", **patterns)


@pytest.mark.parametrize("asked", [("merged", None), ("gguf", "f16")])
def test_an_adapter_of_a_quantised_base_is_not_merged_into_the_whole_one(
    folder: Path, asked: tuple[str, str | None]
) -> None:
    assert "trained on the base model in nf4" in obstacle(folder, *asked, quantization="nf4")
    assert obstacle(folder, "gguf", "lora", quantization="nf4") == ""


@pytest.mark.parametrize("type_", ["f16", "lora"])
def test_an_architecture_without_names_is_refused(folder: Path, type_: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    assert "'gpt_neox', as its config has it, have no names in GGUF" in obstacle(folder, "gguf", type_)
    assert obstacle(folder, "merged") == ""


def test_scaled_positions_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | {"rope_parameters": {"rope_type": "llama3"}}))
    assert "its positions are scaled (llama3)" in obstacle(folder, "gguf", "f16")
    assert obstacle(folder, "gguf", "lora") == ""


def test_a_tokenizer_that_gguf_has_no_name_for_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    isolated = {"type": "Punctuation", "behavior": "Isolated"}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [isolated, written["pre_tokenizer"]]}
    path.write_text(json.dumps(written))
    tokenizer = TextTokenizer.from_folder(folder)
    found = find_obstacle("gguf", "f16", base_model_folder=folder, tokenizer=tokenizer, lora=lora(), quantization=None)
    assert found is not None
    assert "no name in GGUF" in found
