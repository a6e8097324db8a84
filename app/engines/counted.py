"""An engine whose answers are counted: how each ended, how long it was and how long it took.

Asks another engine and changes nothing of what it says. What is made of the counts is not its matter.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from core.errors import EngineBusy, InvalidInput
from core.serving.generation import Delta, Engine, EngineInfo, FinishReason, GenerationRequest, Rendering, RenderRequest


@dataclass(frozen=True)
class CountedAnswer:
    """An answer that has ended; ``reason`` None: the engine failed, after whatever tokens."""

    reason: FinishReason | None
    tokens: int
    seconds: float


class CountedEngine:
    """Counts what an engine generates.

    A request that is wrong, that finds the queue full, that only scores a prompt or whose client leaves says nothing of
    the model, and is not counted.
    """

    def __init__(self, engine: Engine, count: Callable[[CountedAnswer], None]) -> None:
        self._engine = engine
        self._count = count

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        began_s = time.perf_counter()
        try:
            async with aclosing(self._engine.generate(request)) as deltas:
                async for delta in deltas:
                    if delta.usage is not None and request.sampling.max_tokens:
                        # before it is handed on: whoever has read the end need not come for more
                        seconds = time.perf_counter() - began_s
                        self._count(CountedAnswer(delta.finish_reason, delta.usage.completion_tokens, seconds))
                    yield delta
        except Exception as error:
            if not isinstance(error, (InvalidInput, EngineBusy)):
                self._count(CountedAnswer(None, 0, time.perf_counter() - began_s))
            raise

    async def render(self, request: RenderRequest) -> Rendering:
        return await self._engine.render(request)

    async def warm(self, adapter: str) -> None:
        await self._engine.warm(adapter)

    async def unload(self, adapter: str) -> None:
        await self._engine.unload(adapter)

    async def info(self) -> EngineInfo:
        return await self._engine.info()
