"""The engine as the server sees it: one base model, its adapters, and the requests under way.

The asyncio side of ``decode_loop``: renders, checks, pins the adapter, and hands deltas over.
Knows no HTTP.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from core.errors import EngineBusy, InvalidParameter, PromptTooLong, ServiceError
from core.generation import Delta, EngineInfo, GenerationRequest, PromptSource, Rendering, RenderRequest
from core.prompts import render
from core.settings import Settings
from core.store.blobs import BlobStore
from core.text.rendering import RenderedPrompt, Renderer
from worker.inference.adapters import AdapterCache
from worker.inference.answers import Answer
from worker.inference.decode_loop import DecodeLoop
from worker.inference.decoding import Decoder
from worker.inference.lora import Adapter, RowPlan, attach_lora
from worker.inference.verification import Fit, read_adapter
from worker.models.loading import LoadedModel

Read = TypeVar("Read")


class LocalEngine:
    """Implements ``core.generation.Engine`` with a model in this process; used from one event loop."""

    def __init__(
        self,
        base_model: str,
        loaded: LoadedModel,
        blobs: BlobStore,
        settings: Settings,
        *,
        on_death: Callable[[], None],
    ) -> None:
        self._base_model = base_model
        self._loaded = loaded
        self._renderer = Renderer(loaded.tokenizer)
        self._max_waiting = settings.engine_max_waiting
        plan = RowPlan()
        fit = Fit(
            fingerprint=loaded.fingerprint,
            tokenizer=loaded.tokenizer,
            layers=attach_lora(loaded.model, plan),
            device=loaded.device,
            dtype=loaded.dtype,
        )
        limit_bytes = settings.adapter_cache_bytes
        read = functools.partial(read_adapter, blobs=blobs, fit=fit, limit_bytes=limit_bytes)
        self._adapters = AdapterCache(read, limit_bytes)
        self._preparing = 0  # requests whose adapter is loaded, or that are rendered
        self._loop = DecodeLoop(
            Decoder(loaded.model, plan, vocab_size=loaded.tokenizer.vocab_size),
            base_model=base_model,
            max_batch=settings.engine_max_batch,
            max_waiting=settings.engine_max_waiting,
            on_death=on_death,
        )

    def start(self) -> None:
        """Begin to answer; ``on_death`` is called, in another thread, should that end by itself."""
        self._loop.start()

    @property
    def is_alive(self) -> bool:
        """False once the decode loop has ended; only a new process helps then."""
        return self._loop.is_alive

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See ``core.generation.Engine.generate``; also raises InvalidParameter for ids that are no tokens."""
        queue: asyncio.Queue[Delta | ServiceError] = asyncio.Queue()
        answer = await self._prepare(request, queue)
        try:
            self._loop.submit(answer)
        except ServiceError:
            answer.end()
            raise
        try:
            while True:
                outcome = await queue.get()
                if isinstance(outcome, ServiceError):
                    raise outcome
                yield outcome
                if outcome.finish_reason is not None:
                    return
        finally:
            self._loop.cancel(answer)

    async def render(self, request: RenderRequest) -> Rendering:
        """See ``core.generation.Engine.render``."""
        read = functools.partial(self._rendered, request.prompt, max_tokens=1)
        adapter, rendered = await self._take_in(request.adapter, read)
        if adapter is not None:
            self._adapters.unpin(adapter.digest)
        return Rendering(text=rendered.text, ids=rendered.ids, moved=rendered.moved)

    async def warm(self, adapter: str) -> None:
        await self._adapters.pin(adapter)
        self._adapters.unpin(adapter)

    async def info(self) -> EngineInfo:
        return EngineInfo(
            base_model=self._base_model,
            fingerprint=self._loaded.fingerprint,
            context_tokens=self._loaded.context_tokens,
            device=str(self._loaded.device),
            dtype=str(self._loaded.dtype).removeprefix("torch."),
            resident_adapters=self._adapters.resident,
            resident_adapter_bytes=self._adapters.resident_bytes,
            waiting_requests=self._waiting,
            running_requests=self._loop.running_count,
        )

    async def close(self) -> None:
        """Stop the loop and the loads; requests under way get EngineUnavailable."""
        await asyncio.to_thread(self._loop.stop)
        await self._adapters.close()

    @property
    def _waiting(self) -> int:
        return self._preparing + self._loop.waiting_count

    async def _prepare(self, request: GenerationRequest, queue: "asyncio.Queue[Delta | ServiceError]") -> Answer:
        """Make a request ready for the loop: its adapter pinned until it is answered, its prompt as ids."""
        adapter, prompt_ids = await self._take_in(request.adapter, functools.partial(self._prompt_ids, request))
        event_loop = asyncio.get_running_loop()

        def deliver(outcome: Delta | ServiceError) -> None:
            event_loop.call_soon_threadsafe(queue.put_nowait, outcome)

        def release() -> None:
            if request.adapter is not None:
                event_loop.call_soon_threadsafe(self._adapters.unpin, request.adapter)

        return Answer(
            prompt_ids,
            adapter,
            request.sampling,
            self._loaded.tokenizer,
            self._loaded.device,
            deliver=deliver,
            release=release,
        )

    async def _take_in(self, digest: str | None, read: Callable[[Renderer], Read]) -> tuple[Adapter | None, Read]:
        """Pin a request's adapter, and read its prompt in a thread by the renderer that belongs to it."""
        if self._waiting >= self._max_waiting:
            raise EngineBusy(self._waiting)
        self._preparing += 1
        try:
            if digest is None:
                return None, await asyncio.to_thread(read, self._renderer)
            adapter = await self._adapters.pin(digest)
            try:
                return adapter, await asyncio.to_thread(read, adapter.renderer)
            except BaseException:
                self._adapters.unpin(digest)
                raise
        finally:
            self._preparing -= 1

    def _prompt_ids(self, request: GenerationRequest, renderer: Renderer) -> tuple[int, ...]:
        prompt, max_tokens = request.prompt, request.sampling.max_tokens
        if "" in request.sampling.stop:
            raise InvalidParameter("stop", "a stop sequence cannot be empty")
        if isinstance(prompt, tuple):
            self._check_ids(prompt)
            self._check_length(prompt, max_tokens)
            return prompt
        return self._rendered(prompt, renderer, max_tokens).ids

    def _rendered(self, prompt: PromptSource, renderer: Renderer, max_tokens: int) -> RenderedPrompt:
        rendered = render(renderer, prompt)
        self._check_length(rendered.ids, max_tokens)
        return rendered

    def _check_length(self, ids: Sequence[int], max_tokens: int) -> None:
        if len(ids) + max_tokens > self._loaded.context_tokens:
            raise PromptTooLong(len(ids), max_tokens, self._loaded.context_tokens)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidParameter("prompt", "it has no tokens; give at least one id")
        unknown = next((token_id for token_id in ids if not 0 <= token_id < self._loaded.tokenizer.vocab_size), None)
        if unknown is not None:
            raise InvalidParameter("prompt", f"{unknown} is not a token of {self._base_model}")
