"""Shows examples token by token as a run would train on them: id, characters, weight and reason of each.

Ids, weights and what is cut are ``core.text.rendering``'s; how a preview looks is the caller's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from core.text.files.examples import Example
from core.text.partition import ExamplePart, part_of
from core.text.render_settings import RenderSettings
from core.text.rendering import Reason, RenderedExample, Renderer
from core.text.tokenizer import Span, TextTokenizer

MAX_TOKENS: Final = 100_000  # of one preview: it ends with the example that reaches them
CUT_TOKENS_LISTED: Final = 1_000  # of one example; the others that are cut off are only counted


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of an example.

    Attributes:
        text: its characters, ``example.text[start:end]``; with U+FFFD where it is a part of a character only.
        start: where in the example's text the characters begin that it stands for, or is a part of.
        end: where they end.
        weight: scales the loss of predicting this token; 0: it is not trained.
        is_special: it is one of the tokenizer's control tokens rather than text.
    """

    id: int
    text: str
    start: int
    end: int
    weight: float
    reason: Reason
    is_special: bool


@dataclass(frozen=True, slots=True)
class PreviewedExample:
    """One example as it would be trained on, with what is cut off.

    Attributes:
        tokens: in order; all that the model sees, and the first of those that are cut off.
        prompt_tokens: tokens that are given to the model.
        completion_tokens: tokens that it is to write itself, closing tokens included.
        trained_tokens: those with a weight above 0; if there are none, the example is left out of training.
        dropped: tokens that are cut off; all of them where the example is dropped.
        note: what a person would not expect, as one sentence; None when there is no such thing.
    """

    line: int
    text: str
    tokens: tuple[PreviewToken, ...]
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    dropped: int
    note: str | None


@dataclass(frozen=True, slots=True)
class PreviewTotals:
    """Sums over the examples shown; those that are left out of training count in ``dropped`` only."""

    examples: int
    left_out: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Some examples of a file, and the settings they are shown by. ``has_more``: others come after the last one."""

    settings: RenderSettings
    examples: tuple[PreviewedExample, ...]
    totals: PreviewTotals
    has_more: bool


def preview(examples: Iterable[Example], renderer: Renderer, *, limit: int) -> Preview:
    """Show the first ``limit`` examples, or fewer of very long ones.

    Raises:
        ExampleInvalid: an example cannot be rendered, so a job would fail.
        ExampleOverLength: an example is too long and the policy is ``error``, so a job would fail.
    """
    shown: list[PreviewedExample] = []
    tokens = 0
    has_more = False
    for example in examples:
        if len(shown) == limit or tokens >= MAX_TOKENS:
            has_more = True
            break
        rendered = renderer.example(example)
        tokens += len(rendered.input_ids)
        shown.append(_show(rendered, renderer))
    return Preview(renderer.settings, tuple(shown), _sum(shown), has_more)


def _show(rendered: RenderedExample, renderer: Renderer) -> PreviewedExample:
    fitted = renderer.fit(rendered)
    shown = _all_cut_off(rendered) if fitted is None else fitted
    return PreviewedExample(
        line=shown.line,
        text=shown.text,
        tokens=tuple(_tokens_of(shown, renderer.tokenizer)),
        prompt_tokens=shown.prompt_tokens,
        completion_tokens=shown.completion_tokens,
        trained_tokens=shown.trained_tokens,
        dropped=shown.dropped_tokens,
        note="; ".join(_notes(shown, part_of(fitted), renderer.settings)) or None,
    )


def _all_cut_off(example: RenderedExample) -> RenderedExample:
    segments = (replace(segment, weight=0.0, reason=Reason.TRUNCATED) for segment in example.segments)
    return replace(example, segments=tuple(segments), moved="")


def _notes(shown: RenderedExample, part: ExamplePart, settings: RenderSettings) -> Iterator[str]:
    kept, cut, max_length = len(shown.input_ids), shown.dropped_tokens, settings.max_length
    if part is ExamplePart.DROPPED:
        why = ", and its prompt cannot be cut by enough" if settings.over_length == "truncate_prompt" else ""
        yield f"dropped: {cut:,} tokens, max_length is {max_length:,}{why}"
    elif part is ExamplePart.UNTRAINED:
        yield "left out of training: every weight is 0"
    if kept and cut:
        yield f"{cut:,} tokens of the prompt were cut off: {kept + cut:,} tokens, max_length is {max_length:,}"
    if shown.moved:
        moved = "a space" if shown.moved == " " else "white space"
        yield f"{moved} at the prompt's end was moved to the completion"


def _tokens_of(example: RenderedExample, tokenizer: TextTokenizer) -> Iterator[PreviewToken]:
    spans = [span for segment in example.segments for span in segment.spans]
    ids = (token_id for segment in example.segments for token_id in segment.ids)
    reasons = (segment.reason for segment in example.segments for _ in segment.ids)
    weights = iter(example.weights)  # of the tokens that are kept
    cut = 0
    for index, (token_id, reason) in enumerate(zip(ids, reasons, strict=True)):
        start, end = spans[index]
        is_cut = reason is Reason.TRUNCATED
        weight = 0.0 if is_cut else next(weights)
        cut += is_cut
        if is_cut and cut > CUT_TOKENS_LISTED:
            continue
        text = tokenizer.token_text(token_id) if _is_part(spans, index) else example.text[start:end]
        yield PreviewToken(token_id, text, start, end, weight, reason, text in tokenizer.control_texts)


def _is_part(spans: Sequence[Span], index: int) -> bool:
    """Say whether a token stands for a part of a character, which then is its neighbour's too."""
    start, end = spans[index]
    shares_first = index > 0 and spans[index - 1][1] > start
    shares_last = index + 1 < len(spans) and spans[index + 1][0] < end
    return start == end or shares_first or shares_last


def _sum(shown: Sequence[PreviewedExample]) -> PreviewTotals:
    trained = [example for example in shown if example.trained_tokens]
    return PreviewTotals(
        examples=len(shown),
        left_out=len(shown) - len(trained),
        prompt_tokens=sum(example.prompt_tokens for example in trained),
        completion_tokens=sum(example.completion_tokens for example in trained),
        trained_tokens=sum(example.trained_tokens for example in trained),
        dropped=sum(example.dropped for example in shown),
    )
