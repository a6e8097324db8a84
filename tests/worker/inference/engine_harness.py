"""What the engine's tests work with: engines over tiny models, adapters made by PEFT, and PEFT's own answers."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor

from core.base_models.registry import read_imported
from core.serving.generation import Delta, FinishReason, GenerationRequest, SamplingParams, Usage
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from tests.harness.models.kernels import share_kernels
from tests.harness.models.served_models import serve_fp32
from tests.worker.inference.adapters.adapter_files import load_fp32, write_adapter
from tests.worker.inference.adapters.adapter_files import store_adapter as store_adapter
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.model.contract import StepRow
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.models.serving import EngineModel

T = TypeVar("T")

_request_ids = map("request-{}".format, itertools.count())


class PeftReference:
    """PEFT over one base model in float32, one prompt at a time: no cache, no padding, no batch."""

    def __init__(self, base_folder: Path) -> None:
        self._loaded = load_fp32(base_folder)
        self._peft: PeftModel | None = None

    def greedy(self, adapter_folder: Path | None, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Give the greedy continuation of a prompt by an adapter, or by the base model."""
        tokenizer = self._loaded.tokenizer
        ids = list(prompt_ids)
        with torch.inference_mode(), self._using(adapter_folder) as model:
            for _ in range(tokens):
                logits_BTV = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits
                ids.append(int(logits_BTV[0, -1, : tokenizer.vocab_size].argmax()))
                if ids[-1] in tokenizer.end_ids:
                    break
        return ids[len(prompt_ids) :]

    @contextmanager
    def _using(self, adapter_folder: Path | None) -> Iterator[torch.nn.Module]:
        if adapter_folder is None:
            with contextlib.nullcontext() if self._peft is None else self._peft.disable_adapter():
                yield self._loaded.model
            return
        name = adapter_folder.name
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._loaded.model, adapter_folder, adapter_name=name).eval()
        elif name not in self._peft.peft_config:
            self._peft.load_adapter(adapter_folder, adapter_name=name)
        self._peft.set_adapter(name, inference_mode=True)
        yield self._peft


@dataclass(frozen=True)
class EngineOutput:
    """All deltas of a completion put together."""

    ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: FinishReason
    usage: Usage
    texts: list[str]


def make_request(
    prompt: str | Sequence[int], *, adapter: str | None = None, caller: str = "", **sampling: Any
) -> GenerationRequest:
    prompt = prompt if isinstance(prompt, str) else tuple(prompt)
    params = SamplingParams(**sampling)
    return GenerationRequest(id=next(_request_ids), prompt=prompt, adapter=adapter, sampling=params, caller=caller)


async def complete(engine: LocalEngine, request: GenerationRequest) -> EngineOutput:
    return gather([delta async for delta in engine.generate(request)])


def gather(deltas: Sequence[Delta]) -> EngineOutput:
    """Put deltas together; the last, and only it, must have a reason and the usage."""
    last = deltas[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    assert all(delta.finish_reason is None and delta.usage is None for delta in deltas[:-1])
    tokens = [token for delta in deltas for token in delta.tokens]
    return EngineOutput(
        ids=[token.id for token in tokens],
        logprobs=[token.logprob for token in tokens],
        text="".join(delta.text for delta in deltas),
        finish_reason=last.finish_reason,
        usage=last.usage,
        texts=[delta.text for delta in deltas],
    )


class EngineHarness:
    """A base model's folder with a store beside it, and engines over both."""

    def __init__(self, base_folder: Path, home: Path) -> None:
        self.base_folder = base_folder
        self.home = home
        share_kernels(home)
        self.blobs = LocalBlobStore(home / "store")
        self.deaths = 0
        self._folders: dict[str, Path] = {}
        self._oracle: PeftReference | None = None

    def add_adapter(self, **how: Any) -> str:
        """Make a random adapter and store it; give its digest."""
        folder = self.home / f"adapter-{len(self._folders)}"
        digest = write_adapter(self.base_folder, folder, **how)
        assert store_adapter(folder, self.blobs) == digest
        self._folders[digest] = folder
        return digest

    def peft_greedy(self, adapter: str | None, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Give what PEFT answers to one prompt by itself."""
        self._oracle = self._oracle or PeftReference(self.base_folder)
        return self._oracle.greedy(self._folders[adapter] if adapter else None, prompt_ids, tokens)

    def settings(self, **changes: Any) -> Settings:
        return Settings(home=self.home, **changes)

    @asynccontextmanager
    async def engine(
        self, served: EngineModel | None = None, runner: "WatchedRunner | None" = None, **settings: Any
    ) -> AsyncIterator[LocalEngine]:
        engine = self.make_engine(served, runner, **settings)
        engine.start()
        try:
            yield engine
        finally:
            await engine.close()

    def make_engine(
        self, served: EngineModel | None = None, runner: "WatchedRunner | None" = None, **settings: Any
    ) -> LocalEngine:
        served = served or serve_fp32(self.base_folder)
        chosen = self.settings(**settings)
        return LocalEngine(
            read_imported(self.base_folder).name,
            served,
            self.blobs,
            chosen,
            EngineMetrics(),
            on_death=self._note_death,
            runner=runner or build_runner(served, chosen),
        )

    def watch(self, served: EngineModel, *, closed_at: int | None = None, failures: int = 0) -> "WatchedRunner":
        """Make the runner of an engine over ``served``."""
        return WatchedRunner(build_runner(served, self.settings()), closed_at=closed_at, failures=failures)

    def complete(self, *requests: GenerationRequest, **settings: Any) -> list[EngineOutput]:
        """Answer requests that arrive at once, on an engine of their own."""

        async def run(engine: LocalEngine) -> list[EngineOutput]:
            return await asyncio.gather(*(complete(engine, request) for request in requests))

        return self.run(run, **settings)

    def run(self, work: Callable[[LocalEngine], Awaitable[T]], **settings: Any) -> T:
        """Run ``work`` with an engine of its own."""

        async def with_engine() -> T:
            async with self.engine(**settings) as engine:
                return await work(engine)

        return asyncio.run(with_engine())

    def _note_death(self) -> None:
        self.deaths += 1


class WatchedRunner:
    """A model's runner of which tests count the forwards, hold the ``closed_at``-th up, and let some fail.

    Attributes:
        failures: forwards that are to raise.
    """

    def __init__(self, runner: ModelRunner, *, closed_at: int | None = None, failures: int = 0) -> None:
        self.kv = runner.kv
        self.bank = runner.bank
        self.layers = runner.layers
        self.weight_of = runner.weight_of
        self.size = runner.size
        self.timer = runner.timer
        self.longest_shared = runner.longest_shared
        self.forwards = 0
        self.failures = failures
        self.reached = threading.Event()
        self._runner = runner
        self._closed_at = closed_at
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        self.forwards += 1
        if self.forwards == self._closed_at:
            self.reached.set()
            assert self._open.wait(timeout=60)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("injected")
        return self._runner.forward(rows)
