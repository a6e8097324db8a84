"""Turns examples and requests into token ids, and says what each token weighs in the loss and why.

The only place that does: preview, training, evaluation and inference all come here, so what the
engine is fed for a prompt is exactly the beginning of what was trained. Knows no tensors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, groupby, takewhile
from typing import Any

from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.jobs import OverLength, PromptFormat, TrainOn
from core.text.chat_template import ChatTemplate, ChatTemplateProblem
from core.text.examples import Chat, Columns, Example, MaskSpan, Message, PromptCompletion
from core.text.mustache import PromptTemplates, TemplateProblem
from core.text.tokenizer import Span, TextTokenizer

# What a prompt format's rendered prompt must not end in: tokenizers put a space at the front of the
# next word's token, so a model hardly ever saw a space that stands alone before a word.
MOVABLE = " \t"


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
        line: its line in the training file.
        text: all of it, as the tokens' spans count characters.
        segments: in order; those cut off to fit are among them, and only ``dropped_tokens`` counts them.
        moved: white space that was moved from the prompt's end to the completion's beginning.
    """

    line: int
    text: str
    segments: tuple[Segment, ...]
    moved: str = ""

    @property
    def kept(self) -> Iterable[Segment]:
        """The segments that the model sees."""
        return (segment for segment in self.segments if segment.reason is not Reason.TRUNCATED)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All ids that the model sees, in order."""
        return _ids_of(self.kept)

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
        return _ids_of(takewhile(lambda segment: segment.reason not in ANSWER, self.kept))

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
        return sum(weight > 0 for weight in self.weights)

    @property
    def dropped_tokens(self) -> int:
        """Tokens that were cut off to fit."""
        return sum(len(segment.ids) for segment in self.segments if segment.reason is Reason.TRUNCATED)


class Renderer:
    """Renders for one base model and one job's settings. Safe to share between threads.

    Raises:
        InvalidParameter: a template of ``prompt_format`` is malformed.
        BaseModelInvalid: the base model's chat template is malformed.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        prompt_loss_weight: float = 0.0,
        train_on: TrainOn = "all_assistant",
        prompt_format: PromptFormat | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_weight = prompt_loss_weight
        self._train_on = train_on
        self._prompt_format = None if prompt_format is None else PromptTemplates(prompt_format)
        source = tokenizer.chat_template
        self._chat_template = None if source is None else ChatTemplate(source, tokenizer.special_tokens)
        self._forbidden = _structural_texts(tokenizer)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The base model's tokenizer, for the text of single ids."""
        return self._tokenizer

    def prompt(self, source: str | Mapping[str, Any] | Sequence[Message]) -> RenderedPrompt:
        """Give what to feed for a text as it stands, for the variables of the prompt format, or for a conversation.

        The ids are never empty, even for an empty text.

        Raises:
            InvalidParameter: ``variables`` or ``messages`` cannot be rendered.
        """
        if isinstance(source, str):
            return self._prompt_of(source)
        if isinstance(source, Mapping):
            return self._prompt_of_variables(source)
        try:
            draft = self._conversation(source, add_generation_prompt=True)
        except ChatTemplateProblem as problem:
            raise InvalidParameter("messages", str(problem)) from problem
        return RenderedPrompt(draft.text, _ids_of(draft.segments))

    def example(self, example: Example) -> RenderedExample:
        """Render an example for training.

        Raises:
            ExampleInvalid: it cannot be rendered; ``lines`` names its line.
        """
        try:
            if self._prompt_format is not None and not isinstance(example, Columns):
                raise TemplateProblem("a prompt format applies to columns only; leave it out for this file")
            moved = ""
            if isinstance(example, Chat):
                draft = self._conversation(example.messages, add_generation_prompt=False)
            elif isinstance(example, PromptCompletion):
                draft = self._prompt_and_completion(example.prompt, example.completion, example.mask_spans)
            else:
                prompt, completion = self.texts(example)
                prompt, moved = _split_movable(prompt)
                draft = self._prompt_and_completion(prompt, moved + completion)
        except (TemplateProblem, ChatTemplateProblem) as problem:
            raise ExampleInvalid(f"line {example.line}: {problem}", (example.line,)) from problem
        return RenderedExample(example.line, draft.text, tuple(draft.segments), moved)

    def fit(self, rendered: RenderedExample, max_length: int, over_length: OverLength) -> RenderedExample | None:
        """Apply the length policy; a completion is never cut.

        Returns:
            The example, with the oldest tokens of its prompt marked as cut off if the policy says so and
            at least one of them stays; None when it is dropped.

        Raises:
            ExampleOverLength: it is too long and the policy is ``error``.
        """
        tokens = len(rendered.input_ids)
        if tokens <= max_length:
            return rendered
        if over_length == "error":
            raise ExampleOverLength(
                f"line {rendered.line} has {tokens} tokens, but max_length is {max_length}; "
                "raise max_length, shorten the example, or choose another over_length",
                (rendered.line,),
            )
        return _truncate(rendered, tokens - max_length) if over_length == "truncate_prompt" else None

    def _prompt_of(self, text: str, moved: str = "") -> RenderedPrompt:
        draft = _Draft()
        self._open(draft, text)
        return RenderedPrompt(draft.text, _ids_of(draft.segments), moved)

    def _prompt_of_variables(self, variables: Mapping[str, Any]) -> RenderedPrompt:
        if self._prompt_format is None:
            raise InvalidParameter("variables", "this model has no prompt format; send a prompt")
        try:
            return self._prompt_of(*_split_movable(self._prompt_format.prompt.render(variables)))
        except TemplateProblem as problem:
            raise InvalidParameter("variables", str(problem)) from problem

    def texts(self, example: Columns) -> tuple[str, str]:
        """Give prompt and completion by way of the prompt format."""
        if self._prompt_format is None:
            raise TemplateProblem('there is no "prompt" and "completion"; set prompt_format to use other columns')
        completion = self._prompt_format.completion.render(example.values)
        if not completion.strip():
            raise TemplateProblem("prompt_format.completion gives an empty text")
        return self._prompt_format.prompt.render(example.values), completion

    def _prompt_and_completion(self, prompt: str, completion: str, mask_spans: Sequence[MaskSpan] = ()) -> "_Draft":
        eos_id = self._tokenizer.eos_id
        eos_text = self._tokenizer.token_text(eos_id)
        ids, spans = self._tokenizer.encode_spans(completion)
        if ids[-1:] == (eos_id,):
            ids, spans, completion = ids[:-1], spans[:-1], completion[: spans[-1][0]]
        draft = _Draft()
        self._open(draft, prompt)
        draft.add_answer(ids, spans, completion, 1.0, mask_spans)
        draft.add((eos_id,), ((0, len(eos_text)),), eos_text, 1.0, Reason.END)
        return draft

    def _conversation(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> "_Draft":
        if self._chat_template is None:
            raise ChatTemplateProblem("the base model has no chat template; use prompt and completion instead")
        self._refuse_structural_texts(messages)
        answers = [message for message in messages if message.role == "assistant"]
        first, *others = self._chat_template.cut(messages, add_generation_prompt=add_generation_prompt)
        draft = _Draft()
        self._open(draft, first)
        for index, message in enumerate(answers):
            answer, following = others[2 * index : 2 * index + 2]
            is_last = index == len(answers) - 1
            after = Reason.TEMPLATE if is_last and not add_generation_prompt else Reason.PROMPT
            ids, spans = self._tokenizer.encode_spans(answer)
            if is_last or self._train_on == "all_assistant":
                masked = _shifted(message.mask_spans, answer, message.content)
                draft.add_answer(ids, spans, answer, message.weight, masked)
                self._close(draft, following, message.weight, Reason.END, after)
            else:
                draft.add(ids, spans, answer, self._prompt_weight, Reason.PROMPT)
                self._close(draft, following, self._prompt_weight, Reason.PROMPT, after)
        return draft

    def _open(self, draft: "_Draft", text: str) -> None:
        """Begin a sequence with a text, and with what the base model wants before it exactly once."""
        ids, spans = self._tokenizer.encode_spans(text)
        prefix = self._tokenizer.prefix_ids if ids else self._tokenizer.start_ids
        if prefix and ids[: len(prefix)] == prefix:
            cut = spans[len(prefix) - 1][1]
            ids, text = ids[len(prefix) :], text[cut:]
            spans = tuple((begin - cut, end - cut) for begin, end in spans[len(prefix) :])
        for token_id in prefix:
            token_text = self._tokenizer.token_text(token_id)
            draft.add((token_id,), ((0, len(token_text)),), token_text, self._prompt_weight, Reason.TEMPLATE)
        draft.add(ids, spans, text, self._prompt_weight, Reason.PROMPT)

    def _close(self, draft: "_Draft", text: str, weight: float, end: Reason, after: Reason) -> None:
        """Add what a chat template writes after an answer: the token that closes it, then the rest."""
        ids, spans = self._tokenizer.encode_spans(text)
        if not ids or ids[0] not in self._tokenizer.end_ids:
            raise ChatTemplateProblem(
                f"the base model's chat template closes an answer with {text[:20]!r}, which does not begin with an "
                "end token of the base model, so the model could not learn to stop; use prompt and completion instead"
            )
        cut = spans[0][1]
        draft.add(ids[:1], spans[:1], text[:cut], weight, end)
        rest = tuple((begin - cut, stop - cut) for begin, stop in spans[1:])
        draft.add(ids[1:], rest, text[cut:], self._prompt_weight, after)

    def _refuse_structural_texts(self, messages: Sequence[Message]) -> None:
        """Refuse messages that would close their own turn or open another one."""
        for index, message in enumerate(messages):
            for text in self._forbidden:
                if text in message.content:
                    raise ChatTemplateProblem(
                        f"messages[{index}].content holds {text}, which the chat template uses itself; remove it"
                    )


class _Draft:
    """A sequence while it is put together; counts the spans of each part from the sequence's beginning."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._texts: list[str] = []
        self._chars = 0

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, ids: tuple[int, ...], spans: tuple[Span, ...], text: str, weight: float, reason: Reason) -> None:
        """Append a text; ``spans`` count from its beginning."""
        if ids:
            chars = self._chars
            shifted = tuple((begin + chars, end + chars) for begin, end in spans) if chars else spans
            self.segments.append(Segment(ids, text, weight, reason, shifted))
        self._texts.append(text)
        self._chars += len(text)

    def add_answer(
        self, ids: tuple[int, ...], spans: tuple[Span, ...], text: str, weight: float, masked: Sequence[MaskSpan]
    ) -> None:
        """Append an answer; a token that a masked span touches with one character is not trained."""
        reason = Reason.COMPLETION if weight == 1 else Reason.MESSAGE_WEIGHT
        if not masked:
            self.add(ids, spans, text, weight, reason)
            return
        before = self._chars
        self.add(ids, spans, text, weight, reason)
        if not ids:
            return
        whole = self.segments.pop()
        characters = bytearray(len(text))
        for begin, end in masked:
            characters[begin:end] = b"\1" * (min(end, len(text)) - begin)
        is_masked = [characters.find(1, *span) >= 0 for span in spans]
        for hidden, group in groupby(range(len(ids)), key=is_masked.__getitem__):
            members = list(group)
            part = slice(members[0], members[-1] + 1)
            at = whole.spans[part]
            shown = text[at[0][0] - before : at[-1][1] - before]
            kind = (0.0, Reason.MASKED_SPAN) if hidden else (weight, reason)
            self.segments.append(Segment(ids[part], shown, *kind, at))


def _truncate(rendered: RenderedExample, excess: int) -> RenderedExample | None:
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


def _shifted(spans: Sequence[MaskSpan], answer: str, content: str) -> list[MaskSpan]:
    """Count masked characters in an answer as the chat template writes it, which may strip the message's content."""
    offset = (len(answer) - len(answer.lstrip())) - (len(content) - len(content.lstrip()))
    return [(begin + offset, end + offset) for begin, end in spans]


def _split_movable(prompt: str) -> tuple[str, str]:
    """Cut a rendered prompt before the spaces at its end."""
    kept = prompt.rstrip(MOVABLE)
    return kept, prompt[len(kept) :]


def _structural_texts(tokenizer: TextTokenizer) -> frozenset[str]:
    """List the special tokens' texts that give a conversation its structure."""
    ends = {tokenizer.token_text(token_id) for token_id in tokenizer.end_ids}
    written = {text for text in tokenizer.control_texts if text in (tokenizer.chat_template or "")}
    return frozenset(ends | written)


def _ids_of(segments: Iterable[Segment]) -> tuple[int, ...]:
    return tuple(chain.from_iterable(segment.ids for segment in segments))
