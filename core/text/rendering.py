"""Turns examples and requests into token ids, and says what each token weighs in the loss and why.

The only place that does: preview, training, evaluation and inference all come here, so what the
engine is fed for a prompt is exactly the beginning of what was trained. Knows no tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any

from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.jobs import OverLength, PromptFormat
from core.text.chat_template import ChatTemplate, ChatTemplateProblem
from core.text.examples import Chat, Columns, Example, Message, PromptCompletion
from core.text.mustache import PromptTemplates, TemplateProblem
from core.text.tokenizer import TextTokenizer


class Reason(StrEnum):
    """Why a token is in an example."""

    PROMPT = "prompt"  # the user's text, with the chat template's words around it
    TEMPLATE = "template"  # what the base model wants before a text, or its template writes after an answer
    COMPLETION = "completion"
    END = "end"  # closes a completion, so that the model learns to stop


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens that share a weight and a reason. ``weight`` scales their loss as targets, from 0 to 1."""

    ids: tuple[int, ...]
    text: str
    weight: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One example as the model is trained on it. ``line`` is its line in the training file."""

    line: int
    segments: tuple[Segment, ...]

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All ids, in order."""
        return tuple(token_id for segment in self.segments for token_id in segment.ids)

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight per id, as a target: ``weights[i]`` scales the loss of predicting ``input_ids[i]``.

        With ids (5, 6, 7, 2), of which 5 and 6 are prompt and 2 is EOS, and a prompt loss weight of
        0.1: (0.1, 0.1, 1.0, 1.0). The first token has nothing before it, so its weight is never used.
        """
        return tuple(segment.weight for segment in self.segments for _ in segment.ids)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What inference feeds for this example's prompt: all ids before the first completion."""
        before = takewhile(lambda segment: segment.reason in (Reason.PROMPT, Reason.TEMPLATE), self.segments)
        return tuple(token_id for segment in before for token_id in segment.ids)

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model is to write itself, closing tokens included."""
        return sum(len(segment.ids) for segment in self.segments if segment.reason in (Reason.COMPLETION, Reason.END))

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are given to the model."""
        return len(self.input_ids) - self.completion_tokens

    @property
    def trained_tokens(self) -> int:
        """Targets with a weight above zero."""
        return sum(weight > 0 for weight in self.weights[1:])


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
        prompt_format: PromptFormat | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_weight = prompt_loss_weight
        self._prompt_format = None if prompt_format is None else PromptTemplates(prompt_format)
        source = tokenizer.chat_template
        self._chat_template = None if source is None else ChatTemplate(source, tokenizer.special_tokens)
        self._forbidden = _structural_texts(tokenizer)

    def prompt_text(self, prompt: str) -> tuple[int, ...]:
        """Give the ids to feed for a prompt as it stands; never empty, even for an empty prompt."""
        return _ids_of(self._opening(prompt))

    def prompt(self, source: Mapping[str, Any] | Sequence[Message]) -> tuple[int, ...]:
        """Give the ids to feed for the variables of the prompt format, or for a conversation to be answered.

        Raises:
            InvalidParameter: ``variables`` or ``messages`` cannot be rendered.
        """
        if isinstance(source, Mapping):
            if self._prompt_format is None:
                raise InvalidParameter("variables", "this model has no prompt format; send a prompt")
            try:
                return self.prompt_text(self._prompt_format.prompt.render(source))
            except TemplateProblem as problem:
                raise InvalidParameter("variables", str(problem)) from problem
        try:
            return _ids_of(self._conversation(source, add_generation_prompt=True))
        except ChatTemplateProblem as problem:
            raise InvalidParameter("messages", str(problem)) from problem

    def example(self, example: Example) -> RenderedExample:
        """Render an example for training.

        Raises:
            ExampleInvalid: it cannot be rendered; ``lines`` names its line.
        """
        try:
            if self._prompt_format is not None and not isinstance(example, Columns):
                raise TemplateProblem("a prompt format applies to columns only; leave it out for this file")
            if isinstance(example, Chat):
                segments = self._conversation(example.messages, add_generation_prompt=False)
            else:
                segments = self._prompt_and_completion(*self._texts(example))
        except (TemplateProblem, ChatTemplateProblem) as problem:
            raise ExampleInvalid(f"line {example.line}: {problem}", (example.line,)) from problem
        return RenderedExample(example.line, segments)

    def fit(self, rendered: RenderedExample, max_length: int, over_length: OverLength) -> RenderedExample | None:
        """Apply the length policy; a completion is never cut.

        Returns:
            The example, with the oldest tokens of its prompt cut off if the policy says so and at
            least one of them stays; None when it is dropped.

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
        return self._truncate(rendered, tokens - max_length) if over_length == "truncate_prompt" else None

    def _texts(self, example: PromptCompletion | Columns) -> tuple[str, str]:
        """Give prompt and completion, those of columns by way of the prompt format."""
        if isinstance(example, PromptCompletion):
            return example.prompt, example.completion
        if self._prompt_format is None:
            raise TemplateProblem('there is no "prompt" and "completion"; set prompt_format to use other columns')
        completion = self._prompt_format.completion.render(example.values)
        if not completion.strip():
            raise TemplateProblem("prompt_format.completion gives an empty text")
        return self._prompt_format.prompt.render(example.values), completion

    def _prompt_and_completion(self, prompt: str, completion: str) -> tuple[Segment, ...]:
        eos_id = self._tokenizer.eos_id
        eos_text = self._tokenizer.token_text(eos_id)
        ids = tuple(self._tokenizer.encode(completion))
        if ids[-1:] == (eos_id,):
            ids, completion = ids[:-1], completion.removesuffix(eos_text)
        answer = Segment(ids, completion, 1.0, Reason.COMPLETION)
        end = Segment((eos_id,), eos_text, 1.0, Reason.END)
        return (*self._opening(prompt), *_not_empty(answer), end)

    def _conversation(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        if self._chat_template is None:
            raise ChatTemplateProblem("the base model has no chat template; use prompt and completion instead")
        self._refuse_structural_texts(messages)
        answers = [message for message in messages if message.role == "assistant"]
        first, *others = self._chat_template.cut(messages, add_generation_prompt=add_generation_prompt)
        segments = self._opening(first)
        for index, message in enumerate(answers):
            answer, following = others[2 * index : 2 * index + 2]
            is_last = index == len(answers) - 1
            reason = Reason.TEMPLATE if is_last and not add_generation_prompt else Reason.PROMPT
            ids = tuple(self._tokenizer.encode(answer))
            segments += _not_empty(Segment(ids, answer, message.weight, Reason.COMPLETION))
            segments += self._closing(following, message.weight, reason)
        return segments

    def _opening(self, text: str) -> tuple[Segment, ...]:
        """Tokenise a text that begins a sequence, with what the base model wants before it exactly once."""
        ids = tuple(self._tokenizer.encode(text))
        prefix = self._tokenizer.prefix_ids if ids else self._tokenizer.start_ids
        prefix_text = self._tokenizer.decode(prefix, skip_special=False)
        if prefix and ids[: len(prefix)] == prefix:
            ids, text = ids[len(prefix) :], text.removeprefix(prefix_text)
        return (
            *_not_empty(Segment(prefix, prefix_text, self._prompt_weight, Reason.TEMPLATE)),
            *_not_empty(Segment(ids, text, self._prompt_weight, Reason.PROMPT)),
        )

    def _closing(self, text: str, answer_weight: float, reason: Reason) -> tuple[Segment, ...]:
        """Tokenise what a chat template writes after an answer: the token that closes it, then the rest."""
        ids = tuple(self._tokenizer.encode(text))
        if not ids or ids[0] not in self._tokenizer.end_ids:
            raise ChatTemplateProblem(
                f"the base model's chat template closes an answer with {text[:20]!r}, which does not begin with an "
                "end token of the base model, so the model could not learn to stop; use prompt and completion instead"
            )
        end_text = self._tokenizer.token_text(ids[0])
        rest = Segment(ids[1:], text.removeprefix(end_text), self._prompt_weight, reason)
        return (Segment(ids[:1], end_text, answer_weight, Reason.END), *_not_empty(rest))

    def _truncate(self, rendered: RenderedExample, excess: int) -> RenderedExample | None:
        for index, segment in enumerate(rendered.segments):
            if segment.reason is Reason.PROMPT and len(segment.ids) > excess:
                ids = segment.ids[excess:]
                cut = replace(segment, ids=ids, text=self._tokenizer.decode(ids, skip_special=False))
                return replace(rendered, segments=(*rendered.segments[:index], cut, *rendered.segments[index + 1 :]))
            if segment.reason is not Reason.TEMPLATE:
                return None
        return None

    def _refuse_structural_texts(self, messages: Sequence[Message]) -> None:
        """Refuse messages that would close their own turn or open another one."""
        for index, message in enumerate(messages):
            for text in self._forbidden:
                if text in message.content:
                    raise ChatTemplateProblem(
                        f"messages[{index}].content holds {text}, which the chat template uses itself; remove it"
                    )


def _structural_texts(tokenizer: TextTokenizer) -> frozenset[str]:
    """List the special tokens' texts that give a conversation its structure."""
    ends = {tokenizer.token_text(token_id) for token_id in tokenizer.end_ids}
    written = {text for text in tokenizer.control_texts if text in (tokenizer.chat_template or "")}
    return frozenset(ends | written)


def _not_empty(segment: Segment) -> tuple[Segment, ...]:
    return (segment,) if segment.ids else ()


def _ids_of(segments: tuple[Segment, ...]) -> tuple[int, ...]:
    return tuple(token_id for segment in segments for token_id in segment.ids)
