"""GGUF's names for pre-tokenizers, found by what a tokenizer.json says."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer, Whitespace

from core.text.pre_tokenizers import PRE_TOKENIZERS, find_gguf_name


def described(pre_tokenizer: PreTokenizer, *, merges: bool = True) -> dict[str, Any]:
    tokenizer = Tokenizer(BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")] if merges else []))
    tokenizer.pre_tokenizer = pre_tokenizer
    told: dict[str, Any] = json.loads(tokenizer.to_str())
    return told


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_known_one_has_its_name(name: str) -> None:
    assert find_gguf_name(described(PRE_TOKENIZERS[name])) == name


def test_what_decides_no_ids_is_left_aside() -> None:
    told = described(PRE_TOKENIZERS["gpt-2"])
    told["pre_tokenizer"]["trim_offsets"] = False
    assert find_gguf_name(told) == "gpt-2"


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "NFC"}},
        {"model": {"type": "Unigram"}},
        {"model": {"type": "BPE", "byte_fallback": True, "merges": [["a", "b"]]}},
    ],
    ids=["prefix space", "none", "normalizer", "Unigram", "byte fallback"],
)
def test_others_have_none(change: dict[str, Any]) -> None:
    assert find_gguf_name(described(PRE_TOKENIZERS["gpt-2"]) | change) is None


def test_without_merges_every_cut_into_bytes_is_the_same() -> None:
    told = described(PRE_TOKENIZERS["gpt-2"], merges=False)
    told["pre_tokenizer"]["use_regex"] = False
    assert find_gguf_name(told) == "gpt-2"
    assert find_gguf_name(described(Whitespace(), merges=False)) is None
