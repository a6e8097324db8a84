"""The fewest tokens that a text can have, by its length alone, where that can be proven of a tokenizer.

Knows a tokenizer's description; tokenises nothing.

Why it holds: where nothing makes a text shorter before the vocabulary is looked at, and no character is swallowed by
its neighbour's token, each byte of a text belongs to one token or is dropped for want of any, and no token stands for
more bytes than it has.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer, models

# Unicode's canonical composition (NFC) makes a text shorter at most so many times: three by characters that stand for
# others of a third of their bytes (U+1FEF for U+0060), three by those composed of others (U+0390, of six bytes).
NFC_SHRINKS: Final = 9
_CHARACTER_BYTES: Final = 4  # of UTF-8, at most
_BYTES: Final = 256
_SPACE_MARK: Final = "\u2581"  # SentencePiece's for a space
_KEEPING_PRE_TOKENIZERS: Final = frozenset({"ByteLevel", "Digits", "Metaspace", "UnicodeScripts"})


@dataclass(frozen=True)
class TextBound:
    """What one token can stand for. ``dropped`` are bytes of UTF-8 that become no token at all."""

    token_bytes: int
    dropped: bytes = b""

    def fewest_tokens(self, text: str) -> int:
        """Give a number of tokens that ``text`` has at least."""
        data = text.encode("utf-8", "replace")
        kept = len(data.translate(None, self.dropped)) if self.dropped else len(data)
        return -(-kept // self.token_bytes)


def find_bound(tokenizer: Tokenizer) -> TextBound | None:
    """Find a tokenizer's bound; None: it has none, or none is known of its parts.

    Known are BPE's, as they are made for language models. WordPiece, WordLevel and Unigram make one token of a whole
    unknown word or more; so does a BPE that fuses what it does not know.
    """
    model = tokenizer.model
    if not isinstance(model, models.BPE):
        return None
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return None  # such a token swallows whatever white space there is beside it
    pre_tokenizers = list(_steps(_description(tokenizer.pre_tokenizer), "pretokenizers"))
    shrinking = [_shrinking(step) for step in _steps(_description(tokenizer.normalizer), "normalizers")]
    if None in shrinking or not all(map(_keeps_all, pre_tokenizers)):
        return None
    shrinks = max([1, *(factor for factor in shrinking if factor is not None)])
    by_bytes = any(step["type"] == "ByteLevel" for step in pre_tokenizers)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    dropped = _dropped_bytes(model, vocabulary, by_bytes)
    if dropped is None or (dropped and shrinks > 1):
        return None
    # With a byte-level vocabulary each character of a token is a byte.
    longest = max(len(token) if by_bytes else len(token.encode()) for token in vocabulary)
    token_bytes = max(_CHARACTER_BYTES, longest, *(len(token.content.encode()) for token in added))
    return TextBound(token_bytes * shrinks, dropped)


def _description(part: Any) -> Mapping[str, Any] | None:
    """Give a normalizer or a pre-tokenizer as tokenizer.json has it."""
    return None if part is None else json.loads(part.__getstate__())


def _steps(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    """Give the steps of a part, those of a sequence one by one."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for step in part[key]:
            yield from _steps(step, key)
    else:
        yield part


def _keeps_all(pre_tokenizer: Mapping[str, Any]) -> bool:
    """Say whether a pre-tokenizer only cuts; one that is not known may drop what it cuts at."""
    if pre_tokenizer["type"] in ("Split", "Punctuation"):
        return bool(pre_tokenizer["behavior"] != "Removed")
    return pre_tokenizer["type"] in _KEEPING_PRE_TOKENIZERS


def _shrinking(normalizer: Mapping[str, Any]) -> int | None:
    """Give how many times shorter a normalizer can make a text; None: that is not known, or without limit."""
    match normalizer:
        case {"type": "Prepend"}:
            return 1
        case {"type": "Replace", "pattern": {"String": " "}, "content": content} if content == _SPACE_MARK:
            return 1
        case {"type": "NFC"}:
            return NFC_SHRINKS
    return None


def _dropped_bytes(model: models.BPE, vocabulary: Mapping[str, int], by_bytes: bool) -> bytes | None:
    """Give the bytes that become no token of their own; None: any character may, however many there are of it."""
    if by_bytes:
        return bytes(byte for byte, name in enumerate(_byte_names()) if name not in vocabulary)
    if model.byte_fallback and all(f"<0x{byte:02X}>" in vocabulary for byte in range(_BYTES)):
        return b""
    return None if model.unk_token is None or model.fuse_unk else b""


def _byte_names() -> Iterator[str]:
    """Give the characters that stand for bytes in byte-level vocabularies: printable ones, others moved past 255."""
    moved = 0
    for byte in range(_BYTES):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            yield chr(byte)
        else:
            yield chr(_BYTES + moved)
            moved += 1
