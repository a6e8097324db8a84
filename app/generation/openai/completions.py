"""OpenAI's text completions in terms of an engine: several prompts at once, as a stream or as a whole."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from app.generation.answered_by import answer_id, fingerprint_of
from app.generation.choices import Choices, likeliest
from app.generation.openai import logprobs
from app.generation.openai.answers import FINISH, usage_out
from app.generation.openai.completions_schemas import MAX_PROMPTS, ChoiceOut, CompletionCreate, CompletionOut
from app.generation.openai.logprobs import Offsets
from app.generation.openai.sampling import sampling_of, whose
from app.models.service import ServedModel
from core.errors import InvalidParameter, UnsupportedParameter
from core.serving.generation import Delta, Engine, FinishReason

MAX_TOKENS: Final = 16  # OpenAI's default


class ServedCompletion:
    """One request for completions: the same id and time in each of its chunks.

    Raises:
        InvalidParameter: fields contradict each other, or too many choices are asked for.
    """

    def __init__(self, request: CompletionCreate, model: ServedModel, engine: Engine, *, caller: str, now: int) -> None:
        self._request = request
        self._model = model
        self._id = answer_id("cmpl-", model)
        self._now = now
        self._n = 1 if request.n is None else request.n
        _check_length(request)
        self._each = _generated_each(request, self._n)
        self._choices = Choices(
            engine,
            request.prompt,
            model.adapter,
            sampling_of(
                request,
                max_tokens=MAX_TOKENS if request.max_tokens is None else request.max_tokens,
                top_logprobs=request.logprobs or 0,
                prompt_logprobs=_needs_prompt_tokens(request),
            ),
            each=self._each,
            id=self._id,
            caller=whose(caller, request.user),
        )

    async def whole(self) -> CompletionOut:
        """Generate to the end.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        answers = await self._choices.whole()
        if self._each > self._n:
            answers = likeliest(answers, of=self._each, keep=self._n)
        told = [
            self._choice(index, answer.deltas, Offsets(), answer.finish_reason) for index, answer in enumerate(answers)
        ]
        return self._out(told, is_last=True)

    async def chunks(self) -> AsyncGenerator[CompletionOut, None]:
        """Generate piece by piece; with ``include_usage``, a last chunk has the usage and no choices.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        offsets: dict[int, Offsets] = {}
        async with aclosing(self._choices.deltas()) as deltas:
            async for index, delta in deltas:
                is_first = index not in offsets
                choice = self._choice(
                    index, [delta], offsets.setdefault(index, Offsets()), delta.finish_reason, is_first=is_first
                )
                if choice.text or choice.finish_reason or choice.logprobs:
                    yield self._out([choice])
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield self._out([], is_last=True)

    def _choice(
        self,
        index: int,
        deltas: Sequence[Delta],
        offsets: Offsets,
        reason: FinishReason | None,
        *,
        is_first: bool = True,
    ) -> ChoiceOut:
        """Tell of a choice, or of what some deltas added to it."""
        asked = self._request
        text = "".join(delta.text for delta in deltas)
        if asked.echo and is_first:
            text = self._echo(index, deltas[0]) + text
        offsets.text += text
        told = None
        if asked.logprobs is not None:
            prompt = deltas[0].prompt or () if asked.echo else ()
            told = logprobs.of_completion([*prompt, *(token for delta in deltas for token in delta.tokens)], offsets)
        return ChoiceOut(index=index, text=text, finish_reason=FINISH[reason] if reason else None, logprobs=told)

    def _echo(self, index: int, first: Delta) -> str:
        prompt = self._request.prompt[index // self._n]
        return prompt if isinstance(prompt, str) else "".join(token.text for token in first.prompt or ())

    def _out(self, choices: list[ChoiceOut], *, is_last: bool = False) -> CompletionOut:
        return CompletionOut(
            id=self._id,
            object="text_completion",
            created=self._now,
            model=self._model.name,
            system_fingerprint=fingerprint_of(self._model),
            choices=choices,
            usage=usage_out(self._choices.usage) if is_last else None,
        )


def _check_length(request: CompletionCreate) -> None:
    if request.max_tokens != 0:
        return
    if not request.echo:
        raise InvalidParameter("max_tokens", "0 generates nothing and is for scoring a prompt: send echo too")
    if request.best_of is not None and request.best_of > 1:
        raise InvalidParameter("best_of", "nothing is generated with max_tokens 0, so none is the best")


def _generated_each(request: CompletionCreate, n: int) -> int:
    """Give how many answers are generated for each prompt."""
    each = n if request.best_of is None else request.best_of
    if each < n:
        raise InvalidParameter("best_of", f"is {each}, but n asks for {n}; it cannot be less")
    if each > n and request.stream:
        raise UnsupportedParameter("best_of", "the best can be told only from whole answers; do not stream")
    total = each * len(request.prompt)
    if total > MAX_PROMPTS:
        raise InvalidParameter(
            "n" if request.best_of is None else "best_of",
            f"{each} answers to each of {len(request.prompt)} prompts are {total}; "
            f"one request can have {MAX_PROMPTS}, so send several",
        )
    return each


def _needs_prompt_tokens(request: CompletionCreate) -> bool:
    """Tell whether an echo needs the engine: for the prompt's logprobs or the text of its ids, or as all there is."""
    has_ids = any(not isinstance(prompt, str) for prompt in request.prompt)
    return bool(request.echo) and (request.logprobs is not None or has_ids or request.max_tokens == 0)
