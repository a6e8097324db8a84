"""The engine as the server sees it: one base model, its adapters, and the requests under way.

The asyncio side of ``decode_loop``: tokenises, checks, pins the adapter, and hands deltas over.
Knows no HTTP.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable

from core.errors import EngineBusy, InvalidParameter, PromptTooLong, ServiceError
from core.generation import Delta, EngineInfo, GenerationRequest
from core.settings import Settings
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from worker.inference.adapters import AdapterCache
from worker.inference.answers import Answer
from worker.inference.decode_loop import DecodeLoop
from worker.inference.decoding import Decoder
from worker.inference.lora import RowPlan, attach_lora
from worker.inference.verification import Fit, read_adapter
from worker.models.loading import LoadedModel


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
            tokenizer_sha256=loaded.tokenizer.digest,
            layers=attach_lora(loaded.model, plan),
            device=loaded.device,
            dtype=loaded.dtype,
        )
        limit_bytes = settings.adapter_cache_bytes
        read = functools.partial(read_adapter, blobs=blobs, fit=fit, limit_bytes=limit_bytes)
        self._adapters = AdapterCache(read, limit_bytes)
        self._preparing = 0  # requests that are tokenised, or whose adapter is loaded
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
        """Make a request ready for the loop: refuse what cannot be answered, then pin its adapter."""
        if self._waiting >= self._max_waiting:
            raise EngineBusy(self._waiting)
        self._preparing += 1
        try:
            prompt_ids = await asyncio.to_thread(self._prompt_ids, request)
            adapter = None if request.adapter is None else await self._adapters.pin(request.adapter)
        finally:
            self._preparing -= 1
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

    def _prompt_ids(self, request: GenerationRequest) -> tuple[int, ...]:
        prompt, max_tokens = request.prompt, request.sampling.max_tokens
        if "" in request.sampling.stop:
            raise InvalidParameter("stop", "a stop sequence cannot be empty")
        ids = self._renderer.prompt(prompt).ids if isinstance(prompt, str) else prompt
        if not ids:
            raise InvalidParameter("prompt", "it has no tokens; give at least one id")
        unknown = next((token_id for token_id in ids if not 0 <= token_id < self._loaded.tokenizer.vocab_size), None)
        if unknown is not None:
            raise InvalidParameter("prompt", f"{unknown} is not a token of {self._base_model}")
        if len(ids) + max_tokens > self._loaded.context_tokens:
            raise PromptTooLong(len(ids), max_tokens, self._loaded.context_tokens)
        return ids
