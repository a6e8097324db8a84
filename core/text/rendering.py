"""Turns examples and requests into token ids, and says what each token weighs in the loss and why.

The only place that does: preview, training, evaluation and inference all come here, so what the
engine is fed for a prompt is exactly the beginning of what was trained. Knows no tensors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Final, TypeVar

from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.text.chat_template import ChatTemplate, ChatTemplateProblem
from core.text.files.examples import Chat, Columns, Example, MaskSpan, Message, PromptCompletion
from core.text.mustache import PromptTemplates, TemplateProblem
from core.text.render_settings import OverLength, RenderSettings, TrainOn
from core.text.rendered import ANSWER, Reason, RenderedExample, RenderedPrompt, Segment, ids_of, truncate
from core.text.tokenizer import AT_ONCE_CHARS, Span, TextTokenizer

__all__ = ["ANSWER", "MOVABLE", "Reason", "RenderedExample", "RenderedPrompt", "Renderer", "Segment"]

Got = TypeVar("Got")

# What a prompt format's rendered prompt must not end in: tokenizers put a space at the front of the
# next word's token, so a model hardly ever saw a space that stands alone before a word.
MOVABLE = " \t"

DEFAULTS: Final = RenderSettings()


class Renderer:
    """Renders for one base model and one job's settings. Safe to share between threads.

    Raises:
        InvalidParameter: a template of ``prompt_format`` is malformed.
        BaseModelInvalid: the base model's chat template is malformed.
    """

    def __init__(self, tokenizer: TextTokenizer, settings: RenderSettings = DEFAULTS) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._prompt_weight = settings.prompt_loss_weight
        self._train_on = settings.train_on
        self._prompt_format = None if settings.prompt_format is None else PromptTemplates(settings.prompt_format)
        source = tokenizer.chat_template
        self._chat_template = None if source is None else ChatTemplate(source, tokenizer.special_tokens)
        self._forbidden = _structural_texts(tokenizer)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The base model's tokenizer, for the text of single ids."""
        return self._tokenizer

    @property
    def settings(self) -> RenderSettings:
        """What examples are rendered and fitted by."""
        return self._settings

    def limited(self, tokens: int) -> "Renderer":
        """Give this renderer for prompts of at most so many tokens: those that are far longer are not tokenised.

        Its `prompt` raises ``TooManyTokens`` and ``TextTooLarge`` of ``core.text.tokenizer`` too.
        """
        limited = copy(self)
        limited._tokenizer = self._tokenizer.limited(tokens)
        return limited

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
            self._check_size(source)
            pieces = self._cut(source, add_generation_prompt=True)
            sequence = self._conversation(source, pieces, add_generation_prompt=True)
        except ChatTemplateProblem as problem:
            raise InvalidParameter("messages", str(problem)) from problem
        return RenderedPrompt(sequence.text, ids_of(sequence.segments))

    def example(self, example: Example) -> RenderedExample:
        """Render an example for training.

        Raises:
            ExampleInvalid: it cannot be rendered; ``lines`` names its line.
        """
        return self._assemble(self._write(example))

    def examples(self, batch: Sequence[Example]) -> list[RenderedExample | ExampleInvalid]:
        """Render many examples as `example` does, and tokenise their texts on all cores at once.

        Each is given in its place, one that cannot be rendered as the error that `example` raises.
        """
        written = [_or_error(partial(self._write, example)) for example in batch]
        ahead = copy(self)
        ahead._tokenizer = self._tokenizer.ahead_of(
            piece for one in written if isinstance(one, _ExampleTexts) for piece in one.pieces
        )
        return [one if isinstance(one, ExampleInvalid) else _or_error(partial(ahead._assemble, one)) for one in written]

    def prompt_text(self, example: Example) -> str:
        """Give what stands before an example's first answer that is trained on, for any base model alike.

        A conversation's roles and contents in order, without what a chat template writes around them. Tokenises
        nothing: it is what examples are told apart by before they are rendered.

        Raises:
            ExampleInvalid: the prompt format cannot be rendered; ``lines`` names the example's line.
        """
        if isinstance(example, Chat):
            return _before_answer(example, self._train_on)
        return self._write(example).pieces[0]

    def fit(self, rendered: RenderedExample, over_length: OverLength | None = None) -> RenderedExample | None:
        """Apply the length policy of the settings, or another one; a completion is never cut.

        Returns:
            The example, with the oldest tokens of its prompt marked as cut off if the policy says so and
            at least one of them stays; None when it is dropped.

        Raises:
            ExampleOverLength: it is too long and the policy is ``error``.
        """
        policy, max_length = over_length or self._settings.over_length, self._settings.max_length
        tokens = len(rendered.input_ids)
        if tokens <= max_length:
            return rendered
        if policy == "error":
            raise ExampleOverLength(
                f"line {rendered.line} has {tokens} tokens, but max_length is {max_length}; "
                "raise max_length, shorten the example, or choose another over_length",
                (rendered.line,),
            )
        return truncate(rendered, tokens - max_length) if policy == "truncate_prompt" else None

    def _prompt_of(self, text: str, moved: str = "") -> RenderedPrompt:
        sequence = _TokenSequence()
        self._open(sequence, text)
        return RenderedPrompt(sequence.text, ids_of(sequence.segments), moved)

    def _prompt_of_variables(self, variables: Mapping[str, Any]) -> RenderedPrompt:
        if self._prompt_format is None:
            raise InvalidParameter("variables", "this model has no prompt format; send a prompt")
        try:
            return self._prompt_of(*_split_movable(self._prompt_format.prompt.render(variables)))
        except TemplateProblem as problem:
            raise InvalidParameter("variables", str(problem)) from problem

    def texts(self, example: Columns) -> tuple[str, str]:
        """Give prompt and completion by way of the prompt format, with whatever white space they have.

        Raises:
            TemplateProblem: there is no prompt format, or it fails on these columns.
        """
        if self._prompt_format is None:
            raise TemplateProblem('there is no "prompt" and "completion"; set prompt_format to use other columns')
        completion = self._prompt_format.completion.render(example.values)
        if not completion.strip():
            raise TemplateProblem("prompt_format.completion gives an empty text")
        return self._prompt_format.prompt.render(example.values), completion

    def _write(self, example: Example) -> "_ExampleTexts":
        """Run the templates; tokenises nothing."""
        with _naming(example.line):
            if isinstance(example, Columns):
                prompt, completion = self.texts(example)
                prompt, moved = _split_movable(prompt)
                return _ExampleTexts(example, (prompt, moved + completion), moved)
            if self._prompt_format is not None:
                raise TemplateProblem("a prompt format applies to columns only; leave it out for this file")
            if isinstance(example, PromptCompletion):
                return _ExampleTexts(example, (example.prompt, example.completion))
            return _ExampleTexts(example, tuple(self._cut(example.messages, add_generation_prompt=False)))

    def _assemble(self, written: "_ExampleTexts") -> RenderedExample:
        example = written.example
        with _naming(example.line):
            if isinstance(example, Chat):
                sequence = self._conversation(example.messages, written.pieces, add_generation_prompt=False)
            else:
                masked = example.mask_spans if isinstance(example, PromptCompletion) else ()
                prompt, completion = written.pieces
                sequence = self._prompt_and_completion(prompt, completion, masked)
        prompt_text = _before_answer(example, self._train_on) if isinstance(example, Chat) else written.pieces[0]
        return RenderedExample(example, sequence.text, tuple(sequence.segments), prompt_text, written.moved)

    def _prompt_and_completion(self, prompt: str, completion: str, mask_spans: Sequence[MaskSpan]) -> "_TokenSequence":
        eos_id = self._tokenizer.eos_id
        eos_text = self._tokenizer.token_text(eos_id)
        ids, spans = self._tokenizer.encode_spans(completion)
        if ids[-1:] == (eos_id,):
            ids, spans, completion = ids[:-1], spans[:-1], completion[: spans[-1][0]]
        sequence = _TokenSequence()
        self._open(sequence, prompt)
        sequence.add_answer(ids, spans, completion, 1.0, mask_spans)
        sequence.add((eos_id,), ((0, len(eos_text)),), eos_text, 1.0, Reason.END)
        return sequence

    def _cut(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[str]:
        if self._chat_template is None:
            raise ChatTemplateProblem("the base model has no chat template; use prompt and completion instead")
        self._refuse_structural_texts(messages)
        return self._chat_template.cut(messages, add_generation_prompt=add_generation_prompt)

    def _check_size(self, messages: Sequence[Message]) -> None:
        """Write a long conversation out once before it is cut, which takes as many writings as it has answers."""
        if self._chat_template is not None and sum(len(message.content) for message in messages) > AT_ONCE_CHARS:
            self._tokenizer.check_size(self._chat_template.render(messages, add_generation_prompt=True))

    def _conversation(
        self, messages: Sequence[Message], pieces: Sequence[str], *, add_generation_prompt: bool
    ) -> "_TokenSequence":
        """Tokenise a conversation in the pieces that it was cut into."""
        answers = [message for message in messages if message.role == "assistant"]
        first, *others = pieces
        sequence = _TokenSequence()
        self._open(sequence, first)
        for index, message in enumerate(answers):
            answer, following = others[2 * index : 2 * index + 2]
            is_last = index == len(answers) - 1
            after = Reason.TEMPLATE if is_last and not add_generation_prompt else Reason.PROMPT
            ids, spans = self._tokenizer.encode_spans(answer)
            if is_last or self._train_on == "all_assistant":
                masked = _shifted(message.mask_spans, answer, message.content)
                sequence.add_answer(ids, spans, answer, message.weight, masked)
                self._close(sequence, following, message.weight, Reason.END, after)
            else:
                sequence.add(ids, spans, answer, self._prompt_weight, Reason.PROMPT)
                self._close(sequence, following, self._prompt_weight, Reason.PROMPT, after)
        return sequence

    def _open(self, sequence: "_TokenSequence", text: str) -> None:
        """Begin a sequence with a text, and with what the base model wants before it exactly once."""
        ids, spans = self._tokenizer.encode_spans(text)
        prefix = self._tokenizer.prefix_ids if ids else self._tokenizer.start_ids
        if prefix and ids[: len(prefix)] == prefix:
            cut = spans[len(prefix) - 1][1]
            ids, text = ids[len(prefix) :], text[cut:]
            spans = tuple((begin - cut, end - cut) for begin, end in spans[len(prefix) :])
        for token_id in prefix:
            token_text = self._tokenizer.token_text(token_id)
            sequence.add((token_id,), ((0, len(token_text)),), token_text, self._prompt_weight, Reason.TEMPLATE)
        sequence.add(ids, spans, text, self._prompt_weight, Reason.PROMPT)

    def _close(self, sequence: "_TokenSequence", text: str, weight: float, end: Reason, after: Reason) -> None:
        """Add what a chat template writes after an answer: the token that closes it, then the rest."""
        ids, spans = self._tokenizer.encode_spans(text)
        if not ids or ids[0] not in self._tokenizer.end_ids:
            raise ChatTemplateProblem(
                f"the base model's chat template closes an answer with {text[:20]!r}, which does not begin with an "
                "end token of the base model, so the model could not learn to stop; use prompt and completion instead"
            )
        cut = spans[0][1]
        sequence.add(ids[:1], spans[:1], text[:cut], weight, end)
        rest = tuple((begin - cut, stop - cut) for begin, stop in spans[1:])
        sequence.add(ids[1:], rest, text[cut:], self._prompt_weight, after)

    def _refuse_structural_texts(self, messages: Sequence[Message]) -> None:
        """Refuse messages that would close their own turn or open another one."""
        for index, message in enumerate(messages):
            for text in self._forbidden:
                if text in message.content:
                    raise ChatTemplateProblem(
                        f"messages[{index}].content holds {text}, which the chat template uses itself; remove it"
                    )


@dataclass(frozen=True, slots=True)
class _ExampleTexts:
    """An example as the texts that are tokenised one by one: prompt and completion, or a conversation's pieces."""

    example: Example
    pieces: tuple[str, ...]
    moved: str = ""


class _TokenSequence:
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


@contextmanager
def _naming(line: int) -> Iterator[None]:
    """Turn what is wrong with an example into an error that names its line."""
    try:
        yield
    except (TemplateProblem, ChatTemplateProblem) as problem:
        raise ExampleInvalid(f"line {line}: {problem}", (line,)) from problem


def _or_error(step: Callable[[], Got]) -> Got | ExampleInvalid:
    """Give what a step gives, or the error that it raises."""
    try:
        return step()
    except ExampleInvalid as error:
        return error


def _shifted(spans: Sequence[MaskSpan], answer: str, content: str) -> list[MaskSpan]:
    """Count masked characters in an answer as the chat template writes it, which may strip the message's content."""
    offset = (len(answer) - len(answer.lstrip())) - (len(content) - len(content.lstrip()))
    return [(max(0, begin + offset), max(0, end + offset)) for begin, end in spans]


def _before_answer(chat: Chat, train_on: TrainOn) -> str:
    """Write out the messages before the first answer that is trained on; no content holds the NUL between them."""
    answers = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
    before = chat.messages[: answers[-1 if train_on == "last_assistant" else 0]]
    return "".join(f"{message.role}\0{message.content}\0" for message in before)


def _split_movable(prompt: str) -> tuple[str, str]:
    """Cut a rendered prompt before the spaces at its end."""
    kept = prompt.rstrip(MOVABLE)
    return kept, prompt[len(kept) :]


def _structural_texts(tokenizer: TextTokenizer) -> frozenset[str]:
    """List the special tokens' texts that give a conversation its structure."""
    ends = {tokenizer.token_text(token_id) for token_id in tokenizer.end_ids}
    written = {text for text in tokenizer.control_texts if text in (tokenizer.chat_template or "")}
    return frozenset(ends | written)
