"""A preview in words and marks, the same on the page and in the terminal.

Cuts an example's tokens into runs that are marked alike, names each run, makes white space visible, and
puts the totals into a sentence. Knows neither HTML nor terminals.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final

from core.text.preview import Preview, PreviewedExample, PreviewToken
from core.text.rendering import ANSWER, Reason


class Mark(StrEnum):
    """How a token is drawn."""

    TRAINED = "trained"
    PARTLY = "partly"  # with a weight between 0 and 1
    UNTRAINED = "untrained"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is drawn as one: a token, or the tokens that share a character, which cannot be drawn apart."""

    text: str
    title: str
    is_special: bool


@dataclass(frozen=True, slots=True)
class MarkedRun:
    """Neighbours that are marked alike. ``tokens`` counts them, and ``unlisted`` those left out behind them."""

    label: str
    mark: Mark
    weight: float
    tokens: int
    units: tuple[Unit, ...]
    unlisted: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a token's text; a symbol stands for a character that would not be seen."""

    text: str
    is_symbol: bool
    ends_line: bool = False


LINE_END: Final = "↵"

_NOUNS: Final = {
    Reason.PROMPT: "prompt",
    Reason.TEMPLATE: "template",
    Reason.COMPLETION: "completion",
    Reason.END: "end token",
    Reason.MASKED_SPAN: "masked part",
    Reason.MESSAGE_WEIGHT: "completion",
    Reason.TRUNCATED: "cut off",
}

# Spaces that stand at an end or beside another one, and characters that leave no ink or move others about.
# Joiners (U+200C, U+200D) stay as they are: they are part of how a word or an emoji is written.
_HIDDEN: Final = re.compile(
    "(^ +| +$|  +|[\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\u3164\ufeff\uffa0])"
)


def visible(text: str) -> Iterator[Piece]:
    """Cut a token's text into pieces in which every white space and every control character can be seen."""
    for index, part in enumerate(_HIDDEN.split(text)):
        if not part:
            continue
        if index % 2 == 0:
            yield Piece(part, is_symbol=False)
        elif part[0] == " ":
            yield Piece("␣" * len(part), is_symbol=True)
        elif part in "\n\r\t":
            yield Piece({"\n": LINE_END, "\r": "␍", "\t": "⇥"}[part], is_symbol=True, ends_line=part == "\n")
        elif part < " ":
            yield Piece(chr(0x2400 + ord(part)), is_symbol=True)
        else:
            yield Piece(f"⟨U+{ord(part):04X}⟩", is_symbol=True)


def runs(example: PreviewedExample, prompt_loss_weight: float) -> Iterator[MarkedRun]:
    """Cut an example where the mark or the reason changes."""
    first = _first_seen(example)
    cut = sum(token.reason is Reason.TRUNCATED for token in example.tokens)

    def label_of(token: PreviewToken) -> str:
        is_first = token is first and prompt_loss_weight > 0
        return "first token, not trained" if is_first else _label(token)

    for label, group in groupby(example.tokens, key=label_of):
        tokens = tuple(group)
        mark = _mark(tokens[0])
        yield MarkedRun(
            label=label,
            mark=mark,
            weight=tokens[0].weight,
            tokens=len(tokens),
            units=tuple(_units(example.text, tokens, label)),
            unlisted=example.dropped - cut if mark is Mark.CUT else 0,
        )


def sentence(preview: Preview) -> str:
    """Say what is trained, in numbers of tokens."""
    prompt_loss_weight = preview.settings.prompt_loss_weight
    counts: Counter[tuple[float, str]] = Counter()
    for example in preview.examples:
        if example.trained_tokens:
            first = _first_seen(example) if prompt_loss_weight > 0 else None
            counts.update((token.weight, _counted_as(token, first)) for token in example.tokens)
    del counts[0.0, "cut off"]
    clauses = []
    for weight in sorted({weight for weight, _ in counts}, reverse=True):
        found = [(noun, counts[weight, noun]) for noun in _COUNTED if counts[weight, noun]]
        is_or_are = "is" if sum(number for _, number in found) == 1 else "are"
        named = _enumerate(count_of(number, noun) + _ASIDES.get(noun, "") for noun, number in found)
        clauses.append(f"{named} {is_or_are} {_VERBS.get(weight, f'trained with weight {weight:g}')}")
    if preview.totals.dropped:
        clauses.append(f"{count_of(preview.totals.dropped, 'token')} cut off")
    if preview.totals.left_out:
        clauses.append(f"{count_of(preview.totals.left_out, 'example')} left out")
    return f"w = {prompt_loss_weight:g}: {'; '.join(clauses) or 'there is nothing to show'}."


def facts(example: PreviewedExample) -> str:
    """Count an example's tokens in a few words."""
    tokens = example.prompt_tokens + example.completion_tokens + example.dropped
    trained = f"{example.trained_tokens:,}" if example.trained_tokens else "none"
    return f"{count_of(tokens, 'token')}, {trained} trained"


def count_of(number: int, noun: str) -> str:
    """Write a number with its noun: "1 token", "2 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_COUNTED: Final = ("completion token", "closing token", "prompt token", "first token")
_ASIDES: Final = {"first token": ", which nothing predicts,"}
_VERBS: Final = {1.0: "trained", 0.0: "seen and not trained"}


def _counted_as(token: PreviewToken, first: PreviewToken | None) -> str:
    if token.reason is Reason.TRUNCATED:
        return "cut off"
    if token.reason is Reason.END:
        return "closing token"
    if token.reason in ANSWER:
        return "completion token"
    return "first token" if token is first else "prompt token"


def _first_seen(example: PreviewedExample) -> PreviewToken | None:
    """Give the token that nothing stands before, so that nothing predicts it."""
    return next((token for token in example.tokens if token.reason is not Reason.TRUNCATED), None)


def _mark(token: PreviewToken) -> Mark:
    if token.reason is Reason.TRUNCATED:
        return Mark.CUT
    return Mark.TRAINED if token.weight == 1 else Mark.PARTLY if token.weight > 0 else Mark.UNTRAINED


def _label(token: PreviewToken) -> str:
    noun = _NOUNS[token.reason]
    if token.reason is Reason.TRUNCATED:
        return f"{noun}, never seen"
    if token.weight == 0:
        return f"{noun} of weight 0, not trained" if token.reason is Reason.MESSAGE_WEIGHT else f"{noun}, not trained"
    return f"{noun}, trained" if token.weight == 1 else f"{noun}, weight {token.weight:g}"


def _units(text: str, tokens: Sequence[PreviewToken], label: str) -> Iterator[Unit]:
    for group in _sharing(tokens):
        shown = group[0].text if len(group) == 1 else text[group[0].start : group[-1].end]
        ids = ", ".join(str(token.id) for token in group)
        kind = "id" if len(group) == 1 else f"{len(group)} tokens that share a character, ids"
        yield Unit(shown, f"{kind} {ids} · weight {group[0].weight:g} · {label}", group[0].is_special)


def _sharing(tokens: Iterable[PreviewToken]) -> Iterator[list[PreviewToken]]:
    """Put neighbours together that stand for one character."""
    group: list[PreviewToken] = []
    for token in tokens:
        if group and token.start >= group[-1].end:
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _enumerate(parts: Iterable[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
