"""The pre-tokenizers that GGUF has names for, as far as they are known here: what cuts a text before byte-pair merges.

GGUF names them and no more. What else of a tokenizer is in such a file is the matter of who reads or writes it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence

_BYTE_LEVEL: Final = ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
# SmolLM's vocabulary was made on text whose digits were split one by one: without that step "10  20" is cut
# into tokens that the model never saw in that order.
PRE_TOKENIZERS: Final[dict[str, PreTokenizer]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": Sequence([Digits(individual_digits=True), _BYTE_LEVEL]),
}


def find_gguf_name(tokenizer: Mapping[str, Any]) -> str | None:
    """Find GGUF's name for the pre-tokenizer of a byte-level vocabulary; None: it has another, or is of another kind.

    Args:
        tokenizer: the content of a tokenizer.json.
    """
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer") is not None:
        return None
    asked = tokenizer.get("pre_tokenizer")
    if not model.get("merges") and (asked or {}).get("type") == "ByteLevel":
        return "gpt-2"  # where nothing is merged, a text is its bytes, however it is cut before
    return next((name for name, known in PRE_TOKENIZERS.items() if _described(known) == _plain(asked)), None)


def _described(known: PreTokenizer) -> Any:
    return _plain(json.loads(known.__getstate__()))


def _plain(value: Any) -> Any:
    """Leave out what decides no ids."""
    match value:
        case dict():
            return {key: _plain(inner) for key, inner in value.items() if key != "trim_offsets"}
        case list():
            return [_plain(inner) for inner in value]
    return value
