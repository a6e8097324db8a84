"""Wraps a base model's tokenizer: text to token ids and back, and which ids begin and end a text.

Knows nothing of examples, weights or prompts; needs no model library.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Final

from tokenizers import Encoding, Tokenizer

from core.errors import BaseModelInvalid
from core.text.text_bound import TextBound, find_bound

REPLACEMENT = "\ufffd"  # what a decoder gives for bytes that are not UTF-8, or not yet
MAX_PENDING_TOKENS = 32
# Longer texts are tokenised while other threads run. The library holds the interpreter's lock in `encode`, for about
# a microsecond a character, and lets go of it in `encode_batch`, whose texts go through its own threads.
AT_ONCE_CHARS: Final = 4096
# Longer ones take turns: until its ids are read, a text takes up to 400 bytes of memory for each of its own.
TURNS_CHARS: Final = 2**17
# A list of more tokens than these is not made only to find that they are too many.
LISTED_TOKENS: Final = 2**16
# What a text may have for each token that it is limited to, where no bound is known of the tokenizer.
STATED_TOKEN_BYTES: Final = 64
Span = tuple[int, int]  # characters of a text, the end not included
SPECIAL_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")

# Prompt and completion as they meet in practice. A tokenizer that adds a space to each text, or
# drops one at a seam, gives another text back when the parts' ids are joined.
SEAM_PROBES = (("Question: 2+2?\nAnswer:", " 4"), ("a", "b"), ("line\n", "  indented"), ("Grüße ", "日本語 🙂"))


_turn = threading.Lock()  # of long texts, for all tokenizers of the process


class TooManyTokens(Exception):
    """A text has more tokens than it may. ``at_least`` is how many it has, or more than it may have and fewer."""

    def __init__(self, at_least: int) -> None:
        super().__init__(at_least)
        self.at_least = at_least


class TextTooLarge(Exception):
    """A text has more bytes than are tokenised where the tokenizer tells nothing of the tokens they become."""

    def __init__(self, text_bytes: int, limit_bytes: int) -> None:
        super().__init__(text_bytes, limit_bytes)
        self.text_bytes = text_bytes
        self.limit_bytes = limit_bytes


class TextTokenizer:
    """A base model's tokenizer. Safe to share between threads; streams are not.

    Attributes:
        prefix_ids: what the base model expects before any text, such as BOS; often empty.
        start_ids: ``prefix_ids``, or the BOS or EOS id where those are empty: the context of an
            empty prompt, since a model cannot predict from nothing.
        eos_id: closes a completion.
        end_ids: ids that end a generation, ``eos_id`` among them.
        digest: SHA-256 of tokenizer.json.
        chat_template: the source of the base model's chat template; None where it has none.
        special_tokens: texts of bos_token, eos_token, …, as a chat template may use them.
        control_texts: texts that the tokenizer turns into one special token wherever they occur.
    """

    def __init__(self, backend: Tokenizer, config: dict[str, Any], end_ids: Sequence[int], digest: str) -> None:
        # Some published files keep the truncation and padding of their training run.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._known: Mapping[str, Encoding] = {}  # see `ahead_of`
        self._limit_tokens: int | None = None  # see `limited`
        self._bound = functools.cache(functools.partial(find_bound, backend))  # takes 0.1 s, and is seldom needed
        self.digest = digest
        self.special_tokens = {role: text for role in SPECIAL_ROLES if (text := _token_text(config.get(role)))}
        self.control_texts = frozenset(
            token.content for token in backend.get_added_tokens_decoder().values() if token.special
        )
        self.eos_id = self._find_eos(end_ids)
        self.end_ids = frozenset({self.eos_id, *end_ids})
        self.prefix_ids = self._find_prefix(config.get("add_bos_token"))
        self.start_ids = self.prefix_ids or (self._special_id("bos_token", default=self.eos_id),)
        backend.post_processor = None  # from here on nothing is added to a text, and no span is trimmed
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.chat_template = _chat_template(config)
        self._check_seams()

    @classmethod
    def from_folder(cls, folder: Path) -> "TextTokenizer":
        """Read tokenizer.json and what stands beside it in a base model's folder.

        Raises:
            BaseModelInvalid: tokenizer.json is missing or malformed, no EOS is named, or ids of two
                texts cannot be joined.
        """
        try:
            raw = (folder / "tokenizer.json").read_bytes()
            backend = Tokenizer.from_buffer(raw)
        except OSError as error:
            raise BaseModelInvalid(f"{folder} has no readable tokenizer.json: {error.strerror}") from error
        except Exception as error:  # tokenizers raises bare Exception for a malformed file
            raise BaseModelInvalid(f"{folder / 'tokenizer.json'} is malformed: {error}") from error
        config = _read_json(folder / "tokenizer_config.json")
        template_file = folder / "chat_template.jinja"
        if template_file.exists():
            config["chat_template"] = template_file.read_text(encoding="utf-8")
        end_ids: list[int] = []
        for name in ("config.json", "generation_config.json"):
            named = _read_json(folder / name).get("eos_token_id")
            end_ids += named if isinstance(named, list) else [] if named is None else [named]
        return cls(backend, config, end_ids, hashlib.sha256(raw).hexdigest())

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text alone: nothing is added before or after it."""
        ids: list[int] = self._encoding(text).ids
        return ids

    def encode_spans(self, text: str) -> tuple[tuple[int, ...], tuple[Span, ...]]:
        """Give the ids of a text as `encode` does, and for each the characters of the text that it stands for.

        Tokens that share a character have it both: "é" as two tokens has the spans (0, 1) and (0, 1).

        Raises:
            TooManyTokens, TextTooLarge: the tokenizer is `limited`, and the text is so long that it is not worth while
                to list its tokens.
        """
        self.check_size(text)
        encoding = self._known.get(text) or self._encoding(text)
        if self._limit_tokens is not None and len(encoding) > max(self._limit_tokens, LISTED_TOKENS):
            raise TooManyTokens(len(encoding))
        return tuple(encoding.ids), tuple(encoding.offsets)

    def limited(self, tokens: int) -> "TextTokenizer":
        """Give this tokenizer for texts of at most so many tokens, which refuses those that are far longer."""
        limited = copy(self)
        limited._limit_tokens = tokens
        return limited

    @property
    def bound(self) -> TextBound | None:
        """What is known of a text's tokens by its length alone; None: nothing."""
        return self._bound()

    def check_size(self, text: str) -> None:
        """Refuse a text that has more tokens than the tokenizer is limited to, as far as its length alone tells.

        Raises:
            TooManyTokens: it has more, whatever its characters are.
            TextTooLarge: nothing is known of its tokens, and it is larger than `STATED_TOKEN_BYTES` for each.
        """
        limit = self._limit_tokens
        if limit is None or len(text) <= limit:  # no character has more bytes than the longest token
            return
        bound = self._bound()
        if bound is not None:
            fewest = bound.fewest_tokens(text)
            if fewest > limit:
                raise TooManyTokens(fewest)
        elif len(text.encode()) > limit * STATED_TOKEN_BYTES:
            raise TextTooLarge(len(text.encode()), limit * STATED_TOKEN_BYTES)

    def ahead_of(self, texts: Iterable[str]) -> "TextTokenizer":
        """Give this tokenizer with the spans of some texts at hand, found on all cores at once."""
        distinct = list(dict.fromkeys(texts))
        ahead = copy(self)
        ahead._known = dict(zip(distinct, self._backend.encode_batch(distinct, add_special_tokens=False), strict=True))
        return ahead

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Give the text of ids; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def token_text(self, token_id: int) -> str:
        """Give one token's text, special or not; U+FFFD stands for a part of a character."""
        return self.decode([token_id], skip_special=False)

    def to_json(self) -> str:
        """Give the tokenizer as the text of a tokenizer.json, in which nothing is added to a text."""
        text: str = self._backend.to_str()
        return text

    def stream(self, *, skip_special: bool = True) -> "TextStream":
        """Begin the decoding of ids that arrive one by one."""
        return TextStream(self, skip_special)

    def _encoding(self, text: str) -> Encoding:
        if len(text) <= AT_ONCE_CHARS:
            return self._backend.encode(text, add_special_tokens=False)
        with _turn if len(text) > TURNS_CHARS else nullcontext():
            return self._backend.encode_batch([text], add_special_tokens=False)[0]

    def _special_id(self, role: str, default: int | None) -> int:
        text = self.special_tokens.get(role)
        token_id = None if text is None else self._backend.token_to_id(text)
        token_id = default if token_id is None else token_id
        if token_id is None:
            raise BaseModelInvalid(f"the tokenizer names no {role}; set {role} in tokenizer_config.json")
        return token_id

    def _find_eos(self, end_ids: Sequence[int]) -> int:
        return self._special_id("eos_token", default=end_ids[0] if end_ids else None)

    def _find_prefix(self, add_bos_token: bool | None) -> tuple[int, ...]:
        # transformers 5 lets add_bos_token of tokenizer_config.json overrule tokenizer.json's own post-processor.
        if add_bos_token is not None:
            return (self._special_id("bos_token", default=None),) if add_bos_token else ()
        bare = self.encode("a")
        full = self._backend.encode("a").ids
        return tuple(full[: _index_of(bare, full)])

    def _check_seams(self) -> None:
        for left, right in SEAM_PROBES:
            joined = self.decode(self.encode(left) + self.encode(right), skip_special=False)
            if joined != left + right:
                raise BaseModelInvalid(
                    "this tokenizer is not supported: prompt and completion are tokenised separately, "
                    f"but {left!r} and {right!r} joined decode to {joined!r}"
                )


class TextStream:
    """Decodes ids one by one into text that never ends inside a character and never changes later."""

    def __init__(self, tokenizer: TextTokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._window: list[int] = []  # one token of context, then those whose text is not complete
        self._given = 0  # characters of the window's text that were handed out

    def push(self, token_id: int) -> str:
        """Add one id and give the text that became certain, often empty."""
        self._window.append(token_id)
        text = self._text()
        # An unfinished character decodes to one mark, or with byte-fallback decoders to one a byte: at most three.
        certain = max(len(text.rstrip(REPLACEMENT)), len(text) - 3)
        if certain == len(text) or len(self._window) > MAX_PENDING_TOKENS:
            return self.flush()
        new = text[self._given : certain]
        self._given = max(self._given, certain)
        return new

    def flush(self) -> str:
        """Give what is left, with U+FFFD for a character that never became whole."""
        new = self._text()[self._given :]
        self._window = self._window[-1:]
        self._given = len(self._text())
        return new

    def _text(self) -> str:
        return self._tokenizer.decode(self._window, skip_special=self._skip_special)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseModelInvalid(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BaseModelInvalid(f"{path} is not a JSON object")
    return value


def _token_text(token: Any) -> str | None:
    """Read a token of tokenizer_config.json, written either as its text or as an AddedToken object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _chat_template(config: dict[str, Any]) -> str | None:
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates; the one for plain chat is "default"
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _index_of(part: list[int], whole: list[int]) -> int:
    for start in range(len(whole) - len(part) + 1):
        if whole[start : start + len(part)] == part:
            return start
    raise BaseModelInvalid("the tokenizer's post-processor changes a text's own ids, which is not supported")
