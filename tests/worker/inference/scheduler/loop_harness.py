"""A scheduler over the fake runner, and requests to it whose deltas and errors are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.errors import ServiceError
from core.serving.generation import Delta, FinishReason, GenerationRequest, SamplingParams
from core.settings import Settings
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.worker.inference.scheduler.fake_runner import FakeRunner, make_adapter
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.sampling.sampler import RowSampler
from worker.inference.scheduler.loop import SchedulerLoop
from worker.inference.scheduler.request import Request


@dataclass
class TrackedRequest:
    """A request as the scheduler has it, and what came of it."""

    scheduled: Request
    outcomes: list[Delta | ServiceError] = field(default_factory=list)
    releases: int = 0

    @property
    def deltas(self) -> list[Delta]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Delta)]

    @property
    def ids(self) -> list[int]:
        return [token.id for delta in self.deltas for token in delta.tokens]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def error(self) -> ServiceError | None:
        last = self.outcomes[-1] if self.outcomes else None
        return last if isinstance(last, ServiceError) else None

    @property
    def reason(self) -> FinishReason | None:
        return self.deltas[-1].finish_reason if self.deltas else None


class LoopHarness:
    """A loop that takes its steps when it is told to, or by itself after ``loop.start()``."""

    def __init__(self, home: Path, *, runner: dict[str, Any] | None = None, **settings: Any) -> None:
        write_byte_tokenizer(home / "tokenizer")
        self.tokenizer = TextTokenizer.from_folder(home / "tokenizer")
        self.runner = FakeRunner(vocab_size=self.tokenizer.vocab_size, **(runner or {}))
        self.metrics = EngineMetrics()
        self.deaths = 0
        self.loop = SchedulerLoop(
            self.runner,
            Settings(home=home, **settings),
            self.metrics,
            base_model="fake",
            on_death=self._note_death,
        )

    def adapter(self, name: str, *, rank: int = 8) -> Adapter:
        return make_adapter(name, self.tokenizer, rank=rank)

    def submit(
        self, prompt: str, adapter: Adapter | None = None, *, caller: str = "", **sampling: Any
    ) -> TrackedRequest:
        """Queue a request, by default for four tokens."""
        tracked = self.prepare(prompt, adapter, caller=caller, **sampling)
        self.loop.submit(tracked.scheduled)
        return tracked

    def prepare(
        self, prompt: str, adapter: Adapter | None = None, *, caller: str = "", **sampling: Any
    ) -> TrackedRequest:
        digest = adapter.digest if adapter else None
        params = SamplingParams(**{"max_tokens": 4, **sampling})
        request = GenerationRequest(id="request", prompt=prompt, adapter=digest, sampling=params, caller=caller)
        ids = self.tokenizer.encode(prompt)
        tracked: TrackedRequest

        def deliver(outcome: Delta | ServiceError) -> None:
            tracked.outcomes.append(outcome)

        def release() -> None:
            tracked.releases += 1

        scheduled = Request(
            request,
            ids,
            adapter,
            self.tokenizer,
            RowSampler(params, ids, self.tokenizer, torch.device("cpu"), None),
            self.metrics,
            arrived_s=0.0,
            deliver=deliver,
            release=release,
        )
        tracked = TrackedRequest(scheduled)
        return tracked

    def step(self, times: int = 1) -> None:
        with torch.inference_mode():
            for _ in range(times):
                self.loop.step()

    def run_until_idle(self) -> None:
        """Take steps until nothing is left to do."""
        for _ in range(10_000):
            if not self.loop.running_count and not self.loop.waiting.requests:
                return
            self.step()
        raise AssertionError("the loop does not come to an end")

    def generate(self, prompt: str, adapter: Adapter | None = None, **sampling: Any) -> TrackedRequest:
        tracked = self.submit(prompt, adapter, **sampling)
        self.run_until_idle()
        return tracked

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds anything of the runner's."""
        return self.runner.kv.used_slots == 0 and self.runner.bank.pinned == 0

    def _note_death(self) -> None:
        self.deaths += 1
