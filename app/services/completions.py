"""OpenAI's text completions in terms of an engine: several prompts at once, as a stream or as a whole."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Literal

from app.schemas.completions import ChoiceOut, CompletionCreate, CompletionOut, UsageOut
from app.services.models import ServedModel
from core.generation import Delta, Engine, FinishReason, GenerationRequest, SamplingParams, Usage
from core.ids import new_id

# OpenAI's own defaults; SamplingParams has others.
MAX_TOKENS: Final = 16
TEMPERATURE: Final = 1.0

_FINISH: Final[dict[FinishReason, Literal["stop", "length"]]] = {
    FinishReason.LENGTH: "length",
    FinishReason.END: "stop",
    FinishReason.STOP: "stop",
}


class Completion:
    """One request for completions: the same id and time in each of its chunks."""

    def __init__(self, request: CompletionCreate, model: ServedModel, engine: Engine, *, now: int) -> None:
        self._request = request
        self._model = model
        self._engine = engine
        self._id = new_id("cmpl-")
        self._now = now
        self._usage: list[Usage] = []

    async def whole(self) -> CompletionOut:
        """Generate to the end.

        Raises:
            ServiceError: as `core.generation.Engine.generate`.
        """
        texts = [""] * len(self._request.prompt)
        reasons: list[FinishReason | None] = [None] * len(texts)
        async with aclosing(self._deltas()) as deltas:
            async for index, delta in deltas:
                texts[index] += delta.text
                reasons[index] = delta.finish_reason
        choices = [_choice(index, text, reasons[index]) for index, text in enumerate(texts)]
        return self._out(choices, self._total_usage())

    async def chunks(self) -> AsyncGenerator[CompletionOut, None]:
        """Generate piece by piece; with ``include_usage``, a last chunk has the usage and no choices.

        Raises:
            ServiceError: as `core.generation.Engine.generate`.
        """
        async with aclosing(self._deltas()) as deltas:
            async for index, delta in deltas:
                if delta.text or delta.finish_reason:
                    yield self._out([_choice(index, delta.text, delta.finish_reason)], None)
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield self._out([], self._total_usage())

    async def _deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        streams = [self._engine.generate(request) for request in self._generation_requests()]
        async with aclosing(merge(streams)) as merged:
            async for index, delta in merged:
                if delta.usage is not None:
                    self._usage.append(delta.usage)
                yield index, delta

    def _generation_requests(self) -> list[GenerationRequest]:
        asked = self._request
        sampling = SamplingParams(
            max_tokens=MAX_TOKENS if asked.max_tokens is None else asked.max_tokens,
            temperature=TEMPERATURE if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            top_k=asked.top_k,
            seed=asked.seed,
            stop=asked.stop,
        )
        return [
            GenerationRequest(id=f"{self._id}-{index}", prompt=prompt, adapter=self._model.adapter, sampling=sampling)
            for index, prompt in enumerate(asked.prompt)
        ]

    def _total_usage(self) -> UsageOut:
        prompt_tokens = sum(usage.prompt_tokens for usage in self._usage)
        completion_tokens = sum(usage.completion_tokens for usage in self._usage)
        return UsageOut(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def _out(self, choices: list[ChoiceOut], usage: UsageOut | None) -> CompletionOut:
        return CompletionOut(
            id=self._id,
            object="text_completion",
            created=self._now,
            model=self._model.name,
            choices=choices,
            usage=usage,
        )


def _choice(index: int, text: str, reason: FinishReason | None) -> ChoiceOut:
    return ChoiceOut(index=index, text=text, finish_reason=_FINISH[reason] if reason else None, logprobs=None)


async def merge(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield the deltas of several streams as they come, each with its stream's index.

    The first error of any stream is raised; then, as on closing, all the others are closed.
    """
    arrived: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue(maxsize=1)

    async def pump(index: int, stream: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(stream):
                async for delta in stream:
                    await arrived.put((index, delta))
            await arrived.put((index, None))
        except Exception as error:  # raised again where the streams are read
            await arrived.put((index, error))

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        open_streams = len(pumps)
        while open_streams:
            index, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
