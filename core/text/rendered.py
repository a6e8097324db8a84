"""What rendering gives: tokens with their weights and reasons, and what is left of them once they are cut to fit.

How a text becomes these is ``core.text.rendering``'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, takewhile

from core.text.files.examples import Example
from core.text.tokenizer import Span


class Reason(StrEnum):
    """Why a token is in an example, and so why it has its weight."""

    PROMPT = "prompt"  # given to the model: the user's text, with the chat template's words around it
    TEMPLATE = "template"  # what the base model wants before a text, or its template writes after an answer
    COMPLETION = "completion"
    END = "end"  # closes a completion, so that the model learns to stop
    MASKED_SPAN = "masked_span"  # part of an answer that the example excludes
    MESSAGE_WEIGHT = "message_weight"  # an answer whose message has a weight of its own
    TRUNCATED = "truncated"  # cut off to fit max_length: the model never sees it


# What the model is to write itself, whether or not it is trained to.
ANSWER = frozenset({Reason.COMPLETION, Reason.END, Reason.MASKED_SPAN, Reason.MESSAGE_WEIGHT})


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens that share a weight and a reason. ``weight`` scales their loss as targets, from 0 to 1.

    ``spans`` are the characters of the example's text that each token stands for.
    """

    ids: tuple[int, ...]
    text: str
    weight: float
    reason: Reason
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """What the model is fed for a prompt. ``moved`` is white space at its end that is left to the completion."""

    text: str
    ids: tuple[int, ...]
    moved: str = ""


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One example as the model is trained on it.

    Attributes:
        source: what was rendered.
        text: all of it, as the tokens' spans count characters.
        segments: in order; those cut off to fit are among them, and only ``dropped_tokens`` counts them.
        prompt_text: what stands before the first answer for any base model alike, as `Renderer.prompt_text` gives it.
        moved: white space that was moved from the prompt's end to the completion's beginning.
    """

    source: Example
    text: str
    segments: tuple[Segment, ...]
    prompt_text: str
    moved: str = ""

    @property
    def line(self) -> int:
        """Its line in its file, from 1."""
        return self.source.line

    @property
    def kept(self) -> Iterable[Segment]:
        """The segments that the model sees."""
        return (segment for segment in self.segments if segment.reason is not Reason.TRUNCATED)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All ids that the model sees, in order."""
        return ids_of(self.kept)

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight per id, as a target: ``weights[i]`` scales the loss of predicting ``input_ids[i]``.

        With ids (5, 6, 7, 2), of which 5 and 6 are prompt and 2 is EOS, and a prompt loss weight of
        0.1: (0.0, 0.1, 1.0, 1.0). The first token has nothing before it, so nothing predicts it.
        """
        weights = tuple(segment.weight for segment in self.kept for _ in segment.ids)
        return (0.0, *weights[1:]) if weights else ()

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What inference feeds for this example's prompt: all ids before the first answer."""
        return ids_of(takewhile(lambda segment: segment.reason not in ANSWER, self.kept))

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model is to write itself, closing tokens included."""
        return sum(len(segment.ids) for segment in self.kept if segment.reason in ANSWER)

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are given to the model."""
        return len(self.input_ids) - self.completion_tokens

    @property
    def trained_tokens(self) -> int:
        """Targets with a weight above zero."""
        kept = list(self.kept)
        trained = sum(len(segment.ids) for segment in kept if segment.weight > 0)
        return trained - (bool(kept) and kept[0].weight > 0)  # the first token has nothing before it

    @property
    def scored_tokens(self) -> int:
        """Those of them that the model is to write itself: what the loss of a held-out example is the mean of."""
        return sum(len(segment.ids) for segment in self.kept if segment.reason in ANSWER and segment.weight > 0)

    @property
    def dropped_tokens(self) -> int:
        """Tokens that were cut off to fit."""
        return sum(len(segment.ids) for segment in self.segments if segment.reason is Reason.TRUNCATED)


def truncate(rendered: RenderedExample, excess: int) -> RenderedExample | None:
    """Mark the first ``excess`` prompt tokens as cut off, behind what the base model wants before any text."""
    segments = list(rendered.segments)
    first = next((n for n, segment in enumerate(segments) if segment.reason is Reason.PROMPT), len(segments))
    prompt = list(takewhile(lambda segment: segment.reason is Reason.PROMPT, segments[first:]))
    if any(segment.reason is not Reason.TEMPLATE for segment in segments[:first]):
        return None
    if sum(len(segment.ids) for segment in prompt) <= excess:
        return None
    parts: list[Segment] = []
    for segment in prompt:
        cut = min(excess, len(segment.ids))
        excess -= cut
        if cut:
            parts.append(replace(_part(rendered.text, segment, 0, cut), weight=0.0, reason=Reason.TRUNCATED))
        if cut < len(segment.ids):
            parts.append(_part(rendered.text, segment, cut, len(segment.ids)))
    return replace(rendered, segments=(*segments[:first], *parts, *segments[first + len(prompt) :]))


def _part(text: str, segment: Segment, begin: int, end: int) -> Segment:
    spans = segment.spans[begin:end]
    return replace(segment, ids=segment.ids[begin:end], text=text[spans[0][0] : spans[-1][1]], spans=spans)


def ids_of(segments: Iterable[Segment]) -> tuple[int, ...]:
    """Give all ids of segments, in order."""
    return tuple(chain.from_iterable(segment.ids for segment in segments))
