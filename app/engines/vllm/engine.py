"""The Engine protocol by a vLLM server that serves one base model, on a GPU.

Prompts are rendered and tokenised here, as training did; the server is sent ids. Adapters come from the store,
and are loaded under their digest. docs/vllm.md says how such a server is started and what it does otherwise.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from app.engines.vllm.adapters import AdapterFiles, Base, read_base
from app.engines.vllm.answers import VllmAnswer
from app.engines.vllm.residence import Residence, name_of
from app.engines.vllm.sampling import completion_body, error_of
from app.engines.vllm.server import Disconnected, Refusal, VllmServer
from app.engines.vllm.waiting_line import Admission
from core.base_models.registry import folder_of
from core.errors import GenerationFailed, PromptTooLong
from core.serving.admission import Limits
from core.serving.fairness import Key
from core.serving.generation import Delta, EngineInfo, GenerationRequest, PromptSource, Rendering, RenderRequest
from core.serving.prompts import chars_of, render_to_fit
from core.serving.text_readers import TextReaders
from core.settings import Settings
from core.store.blobs import BlobStore
from core.text.rendering import RenderedPrompt, Renderer

_FULL: Final = (429, 503)  # what the server, or a proxy before it, answers when its own queue is full
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 4.0


@dataclass(frozen=True)
class _Parts:
    """What there is once the base model was read."""

    base: Base
    files: AdapterFiles
    residence: Residence
    renderer: Renderer  # of the base model itself


class VllmEngine:
    """One vLLM server; used from one event loop. ``patience_s`` bounds how often a full server is asked again."""

    def __init__(
        self, base_model: str, url: str, blobs: BlobStore, settings: Settings, *, patience_s: float = 30.0
    ) -> None:
        self._base_model = base_model
        self._blobs = blobs
        self._base_folder = folder_of(settings.base_models_folder, base_model)
        self._adapters_folder = settings.vllm_adapters_folder
        self._patience_s = patience_s
        self._server = VllmServer(base_model, url)
        limits = Limits(settings.engine_max_waiting, settings.engine_max_waiting_tokens)
        self._admission = Admission(settings.vllm_max_running, limits)
        self._readers = TextReaders()
        self._opened: _Parts | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See ``core.serving.generation.Engine.generate``; also raises BaseModelNotReady while that is not imported."""
        self._admission.check_room()
        parts = await self._parts()
        prompt_ids = await self._prompt_ids(parts, request)
        body = completion_body(prompt_ids, request.sampling, parts.base.tokenizer, caller=request.caller)
        answer = functools.partial(VllmAnswer, prompt_ids, request.sampling, parts.base.tokenizer)
        key = Key(request.caller, request.adapter)
        async with self._admission.turn(key, len(prompt_ids)):
            with nullcontext() if request.adapter is None else parts.residence.using(request.adapter):
                async with aclosing(self._deltas(parts.residence, request, body, answer)) as deltas:
                    async for delta in deltas:
                        self._admission.count(key, len(delta.tokens))
                        yield delta

    async def render(self, request: RenderRequest) -> Rendering:
        parts = await self._parts()
        rendered = await self._rendered(parts, request.prompt, request.adapter, max_tokens=1)
        return Rendering(text=rendered.text, ids=rendered.ids, moved=rendered.moved)

    async def warm(self, adapter: str) -> None:
        residence = (await self._parts()).residence
        with residence.using(adapter):
            await residence.ensure(adapter)

    async def unload(self, adapter: str) -> None:
        await (await self._parts()).residence.unload(adapter)

    async def info(self) -> EngineInfo:
        """See ``core.serving.generation.Engine.info``; what vLLM does not tell is 0, None or ``unknown``."""
        parts = await self._parts()
        served = await parts.residence.look()
        waiting = self._admission.waiting
        return EngineInfo(
            base_model=self._base_model,
            fingerprint=parts.base.fingerprint,
            context_tokens=min(served.context_tokens, parts.base.context_tokens),
            device="vllm",
            dtype="unknown",
            max_batch=0,
            resident_adapters=parts.residence.resident,
            resident_adapter_bytes=0,
            loading_adapters=parts.residence.loading_count,
            waiting_requests=waiting.requests,
            waiting_tokens=waiting.prompt_tokens,
            running_requests=self._admission.running,
            kv_bytes=0,
            kv_limit_bytes=0,
            prefill_tokens_per_s=None,
            decode_tokens_per_s=None,
        )

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.residence.close()
        await self._server.close()
        await self._readers.close()

    async def _parts(self) -> _Parts:
        """Read the base model, which may be imported only after the API was started."""
        if self._opened is None:
            base = await asyncio.to_thread(read_base, self._base_folder)
            if self._opened is None:
                files = AdapterFiles(self._blobs, self._adapters_folder, base)
                residence = Residence(self._base_model, self._base_folder, self._server, files)
                self._opened = _Parts(base, files, residence, Renderer(base.tokenizer))
        return self._opened

    async def _prompt_ids(self, parts: _Parts, request: GenerationRequest) -> tuple[int, ...]:
        prompt, max_tokens = request.prompt, request.sampling.max_tokens
        if not isinstance(prompt, tuple):
            return (await self._rendered(parts, prompt, request.adapter, max_tokens=max_tokens)).ids
        context_tokens = await _context_tokens(parts)
        if len(prompt) + max_tokens > context_tokens:
            raise PromptTooLong(len(prompt), max_tokens, context_tokens)
        return prompt

    async def _rendered(
        self, parts: _Parts, prompt: PromptSource, adapter: str | None, *, max_tokens: int
    ) -> RenderedPrompt:
        context_tokens = await _context_tokens(parts)

        def read() -> RenderedPrompt:
            renderer = _renderer(parts, adapter)
            return render_to_fit(renderer, prompt, max_tokens=max_tokens, context_tokens=context_tokens)

        return await self._readers.run(read, chars=chars_of(prompt))

    async def _deltas(
        self, residence: Residence, request: GenerationRequest, body: dict[str, Any], begin: Callable[[], VllmAnswer]
    ) -> AsyncGenerator[Delta, None]:
        """Answer a request, a second time where the server was lost or had lost the adapter before the first chunk."""
        for is_second in (False, True):
            model = await _model_of(residence, request.adapter)
            answer, has_begun = begin(), False
            try:
                async with aclosing(self._chunks(body | {"model": model})) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        delta = answer.take(chunk)
                        if delta is not None:
                            yield delta
                yield answer.end()
                return
            except (Refusal, Disconnected) as error:
                if has_begun or is_second or not _may_have_restarted(error):
                    if isinstance(error, Refusal):
                        raise error_of(error, request.sampling) from error
                    raise GenerationFailed(f"the connection to vLLM ended: {error}") from error
                residence.lose()

    async def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Ask for a completion, again and again while the server's own queue is full.

        Raises:
            EngineBusy: it stayed full.
        """
        waited_s, pause_s = 0.0, _FIRST_PAUSE_S
        while True:
            has_begun = False
            try:
                async with aclosing(self._server.complete(body)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except Refusal as refusal:
                if has_begun or refusal.status not in _FULL:
                    raise
                if waited_s + pause_s > self._patience_s:
                    raise self._admission.busy() from refusal
            await asyncio.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)


async def _context_tokens(parts: _Parts) -> int:
    return min((await parts.residence.served()).context_tokens, parts.base.context_tokens)


def _renderer(parts: _Parts, adapter: str | None) -> Renderer:
    return parts.renderer if adapter is None else parts.files.renderer(adapter)


async def _model_of(residence: Residence, adapter: str | None) -> str:
    """Give the name that the server knows an adapter by, once it has it, or its base model."""
    if adapter is None:
        return (await residence.served()).name
    await residence.ensure(adapter)
    return name_of(adapter)


def _may_have_restarted(error: Refusal | Disconnected) -> bool:
    return isinstance(error, Disconnected) or (error.status == 404 and error.param == "model")
