"""Text-generation-inference's generate, which LoRAX shares, in terms of an engine."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from app.generation.answered_by import headers_of
from app.generation.choices import Answer, Choices, Prompt, likeliest
from app.generation.tgi.parameters import best_of, prompt_of, refuse_in_stream, sampling_of
from app.generation.tgi.schemas import (
    DetailsOut,
    FinishOut,
    GenerateCreate,
    GenerateOut,
    OtherSequenceOut,
    Parameters,
    SequenceOut,
    StreamDetailsOut,
    StreamEventOut,
    TopTokensOut,
)
from app.generation.tgi.tokens import prefill_of, tokens_of, top_of
from app.models.service import ServedModel
from core.ids import new_id
from core.serving.generation import Delta, Engine, FinishReason, Rendering, RenderRequest, Usage

_FINISH: Final[dict[FinishReason, FinishOut]] = {
    FinishReason.LENGTH: "length",
    FinishReason.END: "eos_token",
    FinishReason.STOP: "stop_sequence",
}


class Generation:
    """One request for generated text.

    Raises:
        InvalidParameter: it has no prompt, or two, or fields that contradict each other.
    """

    def __init__(self, request: GenerateCreate, model: ServedModel, engine: Engine, *, caller: str) -> None:
        self._parameters = request.parameters or Parameters()
        self._model = model
        self._engine = engine
        self._caller = caller
        self._prompt = prompt_of(request)
        self._sampling = sampling_of(self._parameters)
        self._best_of = best_of(self._parameters)
        self._begun_s = time.perf_counter()
        self._rendered: Rendering | None = None
        self._usage: Usage | None = None  # None: the answer is not whole

    @property
    def headers(self) -> dict[str, str]:
        """Which model answers, and once the answer is whole, how much it took."""
        told = headers_of(self._model)
        return told if self._usage is None else told | self._figures(self._usage)

    async def whole(self) -> GenerateOut:
        """Generate to the end.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        choices = await self._choices()
        best, *others = likeliest(await choices.whole(), of=self._best_of, keep=self._best_of)
        self._usage = best.usage
        text = await self._shown_prompt()
        return GenerateOut(
            generated_text=text + best.text,
            details=self._details(best, others, text) if self._parameters.details else None,
        )

    async def events(self) -> AsyncGenerator[StreamEventOut, None]:
        """Generate token by token, one event each.

        Raises:
            UnsupportedParameter: something is asked for that only a whole answer can tell.
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        refuse_in_stream(self._parameters)
        choices = await self._choices()
        text = await self._shown_prompt()
        index = 0
        async with aclosing(choices.deltas()) as deltas:
            async for _, delta in deltas:
                text += delta.text
                tokens = tokens_of(delta, self._parameters)
                for place, token in enumerate(tokens):
                    index += 1
                    ends = place == len(tokens) - 1 and delta.finish_reason is not None
                    yield StreamEventOut(
                        index=index,
                        token=token,
                        top_tokens=top_of(delta.tokens[place], self._parameters),
                        generated_text=text if ends else None,
                        details=self._stream_details(delta) if ends else None,
                    )

    async def _choices(self) -> Choices:
        return Choices(
            self._engine,
            [await self._fed_prompt()],
            self._model.adapter,
            self._sampling,
            each=self._best_of,
            id=new_id("gen-"),
            caller=self._caller,
        )

    async def _fed_prompt(self) -> Prompt:
        """Give the prompt as it is, or the last of its tokens where ``truncate`` allows no more."""
        most = self._parameters.truncate
        if most is None:
            return self._prompt
        ids = (await self._rendering()).ids
        return self._prompt if len(ids) <= most else ids[-most:]

    async def _shown_prompt(self) -> str:
        if not self._parameters.return_full_text:
            return ""
        return self._prompt if isinstance(self._prompt, str) else (await self._rendering()).text

    async def _rendering(self) -> Rendering:
        if self._rendered is None:
            self._rendered = await self._engine.render(RenderRequest(prompt=self._prompt, adapter=self._model.adapter))
        return self._rendered

    def _figures(self, usage: Usage) -> dict[str, str]:
        return {
            "x-prompt-tokens": str(usage.prompt_tokens),
            "x-generated-tokens": str(usage.completion_tokens),
            "x-total-tokens": str(usage.prompt_tokens + usage.completion_tokens),
            "x-total-time": str(round((time.perf_counter() - self._begun_s) * 1000)),  # milliseconds
        }

    def _details(self, best: Answer, others: Sequence[Answer], shown: str) -> DetailsOut:
        return DetailsOut(
            **dict(self._sequence(best)),
            best_of_sequences=[
                OtherSequenceOut(**dict(self._sequence(other)), generated_text=shown + other.text) for other in others
            ]
            or None,
            prompt_tokens=best.usage.prompt_tokens,
            skipped_tokens=0,
        )

    def _sequence(self, answer: Answer) -> SequenceOut:
        return SequenceOut(
            finish_reason=_FINISH[answer.finish_reason],
            generated_tokens=answer.usage.completion_tokens,
            seed=answer.seed if self._sampling.temperature > 0 else None,
            prefill=prefill_of(answer.prompt),
            tokens=[token for delta in answer.deltas for token in tokens_of(delta, self._parameters)],
            top_tokens=self._top_tokens(answer),
        )

    def _top_tokens(self, answer: Answer) -> TopTokensOut | None:
        tops = [top_of(token, self._parameters) for token in answer.tokens]
        return [top for top in tops if top is not None] if self._parameters.top_n_tokens else None

    def _stream_details(self, last: Delta) -> StreamDetailsOut | None:
        if not self._parameters.details or last.finish_reason is None or last.usage is None:
            return None
        return StreamDetailsOut(
            finish_reason=_FINISH[last.finish_reason],
            generated_tokens=last.usage.completion_tokens,
            seed=self._sampling.seed if self._sampling.temperature > 0 else None,
            prompt_tokens=last.usage.prompt_tokens,
            input_length=last.usage.prompt_tokens,
            skipped_tokens=0,
        )
