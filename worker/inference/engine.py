"""The engine as the server sees it: one base model, its adapters, and the requests under way.

The asyncio side of the ``scheduler``: renders, checks, pins the adapter, and hands deltas over.
Knows no HTTP.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar

from core.errors import ServiceError
from core.serving.admission import Load
from core.serving.generation import Delta, EngineInfo, GenerationRequest, PromptSource, Rendering, RenderRequest
from core.serving.prompts import chars_of, render_to_fit
from core.serving.text_readers import TextReaders
from core.settings import Settings
from core.store.blobs import BlobStore
from core.text.rendering import RenderedPrompt, Renderer
from worker.inference.adapters.cache import AdapterCache
from worker.inference.adapters.verification import Fit, open_adapter
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.model.contract import Runner
from worker.inference.sampling.constraints import ConstraintCompiler, ConstraintState
from worker.inference.sampling.sampler import RowSampler
from worker.inference.scheduler.loop import SchedulerLoop
from worker.inference.scheduler.request import Request
from worker.inference.scheduler.request_checks import (
    check_adapter,
    check_length,
    check_prompt_ids,
    check_room,
    check_sampling,
)
from worker.inference.scheduler.step_budget import StepBudget
from worker.inference.tuning.autotuner import Autotuner
from worker.inference.watchdog import Heartbeat
from worker.models.serving import EngineModel

Read = TypeVar("Read")


class LocalEngine:
    """Implements ``core.serving.generation.Engine`` with a model in this process; used from one event loop.

    ``runner`` is what runs the model.
    """

    def __init__(
        self,
        base_model: str,
        served: EngineModel,
        blobs: BlobStore,
        settings: Settings,
        metrics: EngineMetrics,
        *,
        on_death: Callable[[], None],
        runner: Runner,
    ) -> None:
        self._base_model = base_model
        self._served = served
        self._metrics = metrics
        self._renderer = Renderer(served.tokenizer)
        self._constraints = ConstraintCompiler(served.tokenizer)
        metrics.weight_bytes.set(runner.size.weight_bytes)
        self._max_batch = settings.engine_max_batch
        self._runner = runner
        self._adapters = _adapter_cache(served, self._runner, blobs, settings, metrics)
        self._readers = TextReaders()
        self._preparing = 0  # requests whose adapter is loaded, or that are rendered
        self._loop = SchedulerLoop(runner, settings, metrics, base_model=base_model, on_death=on_death)

    def start(self) -> None:
        """Begin to answer; ``on_death`` is called, in another thread, should that end by itself."""
        self._loop.start()

    def use_budget(self, budget: StepBudget) -> None:
        """Give steps so many tokens from now on."""
        self._loop.use_budget(budget)

    def tune_when_idle(self, tuner: Autotuner) -> None:
        """Have a tuner try again what it could not decide; called before `start`."""
        self._loop.tune_when_idle(tuner)

    @property
    def is_alive(self) -> bool:
        """False once the scheduler has ended, or while it hangs; only a new process helps then."""
        return self._loop.is_alive

    @property
    def heartbeat(self) -> Heartbeat:
        """How long the scheduler's step has taken, and whether that is too long."""
        return self._loop.heartbeat

    @property
    def waiting_by_adapter(self) -> Mapping[str | None, Load]:
        """What waits for each adapter, by its digest; None is the base model."""
        return self._loop.waiting_by_adapter

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See ``core.serving.generation.Engine.generate``; also raises InvalidParameter for ids that are no tokens.

        Deltas wait for a reader that is slow; they are at most as many as the tokens that were asked for.
        """
        queue: asyncio.Queue[Delta | ServiceError] = asyncio.Queue()
        try:
            scheduled = await self._submit(request, queue)
        except ServiceError as error:
            self._metrics.rejected_requests.labels(error.code).inc()
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
            self._loop.cancel(scheduled)

    async def render(self, request: RenderRequest) -> Rendering:
        """See ``core.serving.generation.Engine.render``."""
        read = functools.partial(self._rendered, request.prompt, max_tokens=1)
        adapter, rendered = await self._take_in(request, read)
        if adapter is not None:
            self._adapters.unpin(adapter.digest)
        return Rendering(text=rendered.text, ids=rendered.ids, moved=rendered.moved)

    async def warm(self, adapter: str) -> None:
        """See ``core.serving.generation.Engine.warm``."""
        loaded = await self._adapters.pin(adapter)
        self._adapters.unpin(adapter)
        check_adapter(loaded, self._runner.bank)

    async def unload(self, adapter: str) -> None:
        """See ``core.serving.generation.Engine.unload``; what it has read of prompts is forgotten with it."""
        self._adapters.drop(adapter)
        self._loop.drop_adapter(adapter)

    async def info(self) -> EngineInfo:
        waiting = self._loop.waiting
        return EngineInfo(
            base_model=self._base_model,
            fingerprint=self._served.fingerprint,
            context_tokens=self._served.context_tokens,
            device=str(self._served.device),
            dtype=str(self._served.dtype).removeprefix("torch."),
            max_batch=self._max_batch,
            resident_adapters=self._adapters.resident,
            resident_adapter_bytes=self._adapters.resident_bytes,
            loading_adapters=self._adapters.loading,
            waiting_requests=self._preparing + waiting.requests,
            waiting_tokens=waiting.prompt_tokens,
            running_requests=self._loop.running_count,
            kv_bytes=self._runner.kv.used_bytes,
            kv_limit_bytes=self._runner.kv.limit_bytes,
            prefill_tokens_per_s=self._loop.throughput.prefill_tokens_per_s,
            decode_tokens_per_s=self._loop.throughput.decode_tokens_per_s,
        )

    async def close(self) -> None:
        """Stop the loop and the loads; requests under way get EngineUnavailable."""
        await asyncio.to_thread(self._loop.stop)
        await self._readers.close()
        await self._adapters.close()

    async def _submit(self, request: GenerationRequest, queue: "asyncio.Queue[Delta | ServiceError]") -> Request:
        """Make a request ready for the loop, its adapter pinned until it is answered, and queue it."""
        arrived_s = time.monotonic()
        read = functools.partial(self._read, request)
        adapter, (prompt_ids, constraint) = await self._take_in(request, read)
        event_loop = asyncio.get_running_loop()

        def deliver(outcome: Delta | ServiceError) -> None:
            event_loop.call_soon_threadsafe(queue.put_nowait, outcome)

        def release() -> None:
            if request.adapter is not None:
                event_loop.call_soon_threadsafe(self._adapters.unpin, request.adapter)

        tokenizer, device = self._served.tokenizer, self._served.device
        try:
            sampler = RowSampler(request.sampling, prompt_ids, tokenizer, device, constraint)
            scheduled = Request(
                request,
                prompt_ids,
                adapter,
                tokenizer,
                sampler,
                self._metrics,
                arrived_s=arrived_s,
                deliver=deliver,
                release=release,
            )
            self._loop.submit(scheduled)
        except BaseException:
            release()
            raise
        return scheduled

    async def _take_in(
        self, request: GenerationRequest | RenderRequest, read: Callable[[Renderer], Read]
    ) -> tuple[Adapter | None, Read]:
        """Pin a request's adapter, and read its prompt in a thread by the renderer that belongs to it.

        The adapter is loaded at once, whatever else waits: by the request's turn it is there.
        """
        self._loop.check_room(self._preparing)
        self._preparing += 1
        digest, chars = request.adapter, 0 if isinstance(request.prompt, tuple) else chars_of(request.prompt)
        try:
            if digest is None:
                return None, await self._readers.run(lambda: read(self._renderer), chars=chars)
            adapter = await self._adapters.pin(digest)
            try:
                check_adapter(adapter, self._runner.bank)
                return adapter, await self._readers.run(lambda: read(adapter.renderer), chars=chars)
            except BaseException:
                self._adapters.unpin(digest)
                raise
        finally:
            self._preparing -= 1

    def _read(self, request: GenerationRequest, renderer: Renderer) -> tuple[tuple[int, ...], ConstraintState | None]:
        """Give the prompt's ids, and the constraint ready to be kept to."""
        prompt, sampling = request.prompt, request.sampling
        check_sampling(sampling, self._served)
        if isinstance(prompt, tuple):
            check_prompt_ids(prompt, self._served)
            check_length(len(prompt), sampling.max_tokens, self._served)
            ids = prompt
        else:
            ids = self._rendered(prompt, renderer, sampling.max_tokens).ids
        check_room(len(ids), sampling.max_tokens, self._runner.kv)
        constraint = sampling.constraint
        return ids, None if constraint is None else self._constraints.compile(constraint)

    def _rendered(self, prompt: PromptSource, renderer: Renderer, max_tokens: int) -> RenderedPrompt:
        return render_to_fit(renderer, prompt, max_tokens=max_tokens, context_tokens=self._served.context_tokens)


def _adapter_cache(
    served: EngineModel, runner: Runner, blobs: BlobStore, settings: Settings, metrics: EngineMetrics
) -> AdapterCache:
    fit = Fit(
        fingerprint=served.fingerprint,
        tokenizer=served.tokenizer,
        layers=runner.layers,
        weight_of=runner.weight_of,
        device=served.device,
        dtype=served.dtype,
        max_rank=settings.engine_lora_columns,
    )
    return AdapterCache(functools.partial(open_adapter, blobs=blobs, fit=fit), settings.adapter_cache_bytes, metrics)
