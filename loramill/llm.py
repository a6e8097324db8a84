"""Generates completions in this process, with the engine that the service runs: its batches, kernels and verification.

Owns the event loop that the engine lives on, in a thread of its own, so that it works in a notebook, whose loop is
taken. How requests are batched is ``worker.inference.scheduler``; what makes an adapter one of this base model,
``worker.inference.adapters``.
"""

import asyncio
import shutil
import tempfile
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter

from core.base_models.registry import DType
from core.ids import new_id
from core.serving.generation import (
    FinishReason,
    GenerationRequest,
    PromptSource,
    PromptToken,
    SamplingParams,
    Token,
    Usage,
)
from core.settings import Settings, load_settings
from core.store.blobs import LocalBlobStore
from loramill._base_model import find_base_model
from worker.inference.building import build_engine
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.jobs.blob_transfer import store_adapter

Prompt = str | Sequence[int] | Mapping[str, Any]
Adapter = str | Path | None

T = TypeVar("T")

_PROMPT: Final[TypeAdapter[PromptSource | tuple[int, ...]]] = TypeAdapter(PromptSource | tuple[int, ...])
# Whoever calls waits for the answers, so nobody has to be turned away.
_NOBODY_IS_REFUSED: Final = {"engine_max_waiting": 2**31, "engine_max_waiting_tokens": 2**62}


@dataclass(frozen=True)
class Completion:
    """What a model answered to one prompt.

    Attributes:
        text: ends before the stop sequence or end token that was met.
        tokens: all that were generated, the end token included; each with its log-probability, a natural logarithm
            of the raw distribution, and its likeliest alternatives where ``top_logprobs`` asks for them.
        finish_reason: "end", "stop" or "length".
        usage: how many tokens the prompt and the answer have, and how many of the prompt's were read before.
        prompt: the prompt's tokens with their log-probabilities; None unless ``prompt_logprobs`` asks for them.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    usage: Usage
    prompt: tuple[PromptToken, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """The log-probability of each of `ids`."""
        return tuple(token.logprob for token in self.tokens)


class LLM:
    """A base model in this process, with any number of its adapters.

    It holds the model's memory and two threads until it is closed, left as a context manager, or forgotten.
    """

    def __init__(
        self,
        base: str | Path,
        adapters: Sequence[str | Path] = (),
        *,
        dtype: DType | None = None,
        device: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Load a base model, and adapters, which can also be loaded later by asking for them.

        Args:
            base: a name of the registry, imported first where it is not; or a folder, as `loramill base-models
                import` or as transformers' ``save_pretrained`` leaves it.
            adapters: folders that `finetune` made, refused here rather than at their first prompt.
            dtype: "float32", "bfloat16", or "auto", which is bfloat16 where that is fast; None: what the registry says.
            device: in torch's words; None: the GPU where there is one.
            settings: how the engine computes; None: as LORAMILL_ENGINE_… in the environment say.

        Raises:
            ModelNotFound: there is no base model of this name.
            BaseModelInvalid: it cannot be had or loaded.
            AdapterMismatch: an adapter was trained on another base model.
            AdapterInvalid: an adapter's files do not verify, or prompts would not be rendered as in its training.
        """
        model = find_base_model(base)
        store = tempfile.mkdtemp(prefix="loramill-adapters-")
        weakref.finalize(self, shutil.rmtree, store, ignore_errors=True)
        self._blobs = LocalBlobStore(Path(store))
        settings = (settings or load_settings()).model_copy(update=_NOBODY_IS_REFUSED)
        self._engine = build_engine(
            model.entry if dtype is None else model.entry.model_copy(update={"dtype": dtype}),
            model.folder,
            self._blobs,
            settings,
            EngineMetrics(),
            device=device,
            on_death=lambda: None,  # requests are told
        )
        self._engine.start()
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_events, args=(self._events,), name="loramill-llm", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._engine, self._events)
        self._end.atexit = False  # the threads end with the process
        try:
            for adapter in adapters:
                self._run(self._engine.warm(self._digest_of(adapter)))
        except BaseException:
            self.close()
            raise

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, adapter: Adapter | Sequence[Adapter] = None, **sampling: Any
    ) -> list[Completion]:
        """Give the completion of each prompt, in their order; prompts of different adapters share their batches.

        Args:
            prompts: one or many, each a text, token ids, ``{"messages": [{"role": …, "content": …}, …]}`` for the
                chat template, or ``{"variables": {…}}`` for the prompt format that the adapter was trained with.
            adapter: folder of the adapter that answers, or None for the base model; a list has one for each prompt.
            sampling: fields of ``core.serving.generation.SamplingParams``: max_tokens (16), temperature (0: the
                likeliest token), top_p, top_k, min_p, seed, stop, stop_token_ids, repetition_penalty,
                frequency_penalty, presence_penalty, logit_bias, ignore_end, top_logprobs, prompt_logprobs, constraint.

        Raises:
            pydantic.ValidationError: a prompt or a sampling parameter is malformed.
            ValueError: there are other many adapters than prompts.
            InvalidParameter: a prompt cannot be rendered for this model, or an id is no token of it.
            PromptTooLong: prompt and max_tokens exceed the context.
            AdapterMismatch, AdapterInvalid: as `LLM` says.
            RuntimeError: it is closed.
            GenerationFailed: the engine failed at a step.
        """
        self._require_open()
        listed = _as_many(prompts)
        chosen = [adapter] * len(listed) if adapter is None or isinstance(adapter, str | Path) else list(adapter)
        if len(chosen) != len(listed):
            raise ValueError(f"there are {len(chosen)} adapters for {len(listed)} prompts; give one, or one for each")
        params = SamplingParams(**sampling)
        digests = {folder: self._digest_of(folder) for folder in set(chosen) if folder is not None}
        requests = [
            GenerationRequest(
                id=new_id("local"),
                prompt=_PROMPT.validate_python(prompt),
                adapter=None if folder is None else digests[folder],
                sampling=params,
            )
            for prompt, folder in zip(listed, chosen, strict=True)
        ]
        return self._run(_complete_all(self._engine, requests))

    def close(self) -> None:
        """Free the model and end the threads; closing again does nothing."""
        self._end()
        self._thread.join()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _digest_of(self, folder: str | Path) -> str:
        """Take an adapter's files as they are now; a folder that was written anew is another adapter."""
        self._require_open()
        return store_adapter(self._blobs, Path(folder)).sha256

    def _require_open(self) -> None:
        if not self._end.alive:
            raise RuntimeError("this LLM is closed")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._events)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # on Ctrl-C the rows leave the batch
            raise


def _as_many(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [cast(Sequence[int], prompts)]
    return list(cast(Sequence[Prompt], prompts))


async def _complete_all(engine: LocalEngine, requests: Sequence[GenerationRequest]) -> list[Completion]:
    """Answer requests together; the first that is refused ends the others."""
    tasks = [asyncio.create_task(_complete(engine, request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _complete(engine: LocalEngine, request: GenerationRequest) -> Completion:
    text, prompt = "", None
    tokens: list[Token] = []
    async for delta in engine.generate(request):
        text += delta.text
        tokens.extend(delta.tokens)
        prompt = prompt if delta.prompt is None else delta.prompt
        if delta.finish_reason is not None and delta.usage is not None:
            return Completion(text, tuple(tokens), delta.finish_reason, delta.usage, prompt)
    raise AssertionError("an engine's last delta says why it is the last")


def _run_events(events: asyncio.AbstractEventLoop) -> None:
    events.run_forever()
    events.close()


def _end(engine: LocalEngine, events: asyncio.AbstractEventLoop) -> None:
    """Have the event loop end the engine and then itself; waits for neither, as garbage may be collected on its thread.

    Requests under way get EngineUnavailable.
    """

    async def end() -> None:
        try:
            await engine.close()
            await events.shutdown_default_executor()
        finally:
            events.stop()

    asyncio.run_coroutine_threadsafe(end(), events)
