"""Several answers to several prompts, generated at once: what every protocol's request for text becomes.

Knows an engine and no wire. Prompts come first in the order of answers: all of the first prompt's, then
all of the second's.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from core.errors import PromptTooLong
from core.ratio import ratio
from core.serving.generation import (
    Conversation,
    Delta,
    Engine,
    FinishReason,
    GenerationRequest,
    PromptSource,
    PromptToken,
    SamplingParams,
    Token,
    Usage,
    Variables,
)

Prompt = PromptSource | tuple[int, ...]

_LONG: Final = 2**18  # characters or ids


@dataclass
class Answer:
    """What was generated as one answer, in the steps that it came in."""

    seed: int | None  # None: none was asked for
    deltas: list[Delta] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> list[Token]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def prompt(self) -> tuple[PromptToken, ...]:
        """The prompt's tokens, where they were asked for."""
        return self.deltas[0].prompt or () if self.deltas else ()

    @property
    def finish_reason(self) -> FinishReason:
        assert self.deltas[-1].finish_reason is not None
        return self.deltas[-1].finish_reason

    @property
    def usage(self) -> Usage:
        assert self.deltas[-1].usage is not None
        return self.deltas[-1].usage

    @property
    def mean_logprob(self) -> float | None:
        """How likely the answer is by token, which lets long and short ones be compared; None where it has none."""
        logprobs = [token.logprob for token in self.tokens]
        return ratio(sum(logprobs), len(logprobs))


class Choices:
    """The requests that one client's request becomes, ``each`` of them for every prompt.

    Args:
        id: the client's request's; the engine's requests have it with a number.
        caller: whose request it is.
        fits: a prompt whose ``max_tokens`` more would exceed the context gets as many as there is room for.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        adapter: str | None,
        sampling: SamplingParams,
        *,
        each: int,
        id: str,
        caller: str,
        fits: bool = False,
    ) -> None:
        self._engine = engine
        self._fits = fits
        self._usage: dict[int, Usage] = {}
        self._each = each
        self._requests = [
            GenerationRequest(
                id=f"{id}-{index}",
                prompt=prompts[index // each],
                adapter=adapter,
                sampling=_with_own_seed(sampling, index % each),
                caller=caller,
            )
            for index in range(len(prompts) * each)
        ]

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """Generate all answers, and give what is added to each, with the answer's number.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        streams = [
            _within_context(self._engine, request) if self._fits else self._engine.generate(request)
            for request in self._requests
        ]
        async with aclosing(merge(self._in_turn(streams))) as merged:
            async for index, delta in merged:
                if delta.usage is not None:
                    self._usage[index] = delta.usage
                yield index, delta

    async def whole(self) -> list[Answer]:
        """Generate all answers to their ends; same errors as `deltas`."""
        answers = [Answer(request.sampling.seed) for request in self._requests]
        async with aclosing(self.deltas()) as deltas:
            async for index, delta in deltas:
                answers[index].deltas.append(delta)
        return answers

    def _in_turn(self, streams: Sequence[AsyncGenerator[Delta, None]]) -> list[AsyncGenerator[Delta, None]]:
        """Have all answers of a long prompt but the first wait for the first one's beginning.

        A prompt that the engine refuses is then written out for it once, and not as often as it has answers.
        """
        in_turn = list(streams)
        for first in range(0, len(streams), self._each):
            if self._each > 1 and _is_long(self._requests[first].prompt):
                begun = asyncio.Event()
                in_turn[first] = _telling(begun, streams[first])
                for index in range(first + 1, first + self._each):
                    in_turn[index] = _waiting(begun, streams[index])
        return in_turn

    @property
    def usage(self) -> Usage:
        """The tokens of each prompt, once, and of all answers that have ended."""
        firsts = [usage for index, usage in self._usage.items() if index % self._each == 0]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
            completion_tokens=sum(usage.completion_tokens for usage in self._usage.values()),
            cached_tokens=sum(usage.cached_tokens for usage in firsts),
        )


def likeliest(answers: Sequence[Answer], of: int, keep: int) -> list[Answer]:
    """Keep the likeliest ``keep`` of every ``of`` answers, likeliest first, by their mean logprob.

    An answer without a token, of which there is none, comes last.
    """
    return [
        answer
        for start in range(0, len(answers), of)
        for answer in sorted(answers[start : start + of], key=_unlikeliness)[:keep]
    ]


def _unlikeliness(answer: Answer) -> float:
    return math.inf if answer.mean_logprob is None else -answer.mean_logprob


def _with_own_seed(sampling: SamplingParams, number: int) -> SamplingParams:
    """Give each of a prompt's answers other random numbers; without a seed they are others anyway."""
    if sampling.seed is None or not number:
        return sampling
    return sampling.model_copy(update={"seed": (sampling.seed + number) % 2**63})


def _is_long(prompt: Prompt) -> bool:
    match prompt:
        case str() | tuple():
            return len(prompt) > _LONG
        case Conversation():
            return sum(len(turn.content) for turn in prompt.messages) > _LONG
        case Variables():
            return sum(len(value) for value in prompt.variables.values() if isinstance(value, str)) > _LONG


async def _telling(begun: asyncio.Event, stream: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    async with aclosing(stream):
        async for delta in stream:
            begun.set()
            yield delta


async def _waiting(begun: asyncio.Event, stream: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    await begun.wait()
    async with aclosing(stream):
        async for delta in stream:
            yield delta


async def _within_context(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
    try:
        async with aclosing(engine.generate(request)) as deltas:
            async for delta in deltas:
                yield delta
            return
    except PromptTooLong as error:
        prompt_tokens, _, context_tokens, _ = error.args
        if prompt_tokens >= context_tokens:
            raise
    sampling = request.sampling.model_copy(update={"max_tokens": context_tokens - prompt_tokens})
    async with aclosing(engine.generate(request.model_copy(update={"sampling": sampling}))) as deltas:
        async for delta in deltas:
            yield delta


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
