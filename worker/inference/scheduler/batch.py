"""The running batch of continuous batching: requests with KV slots and adapter columns, joining and leaving any step.

Takes the planned steps, and appends what is sampled to the requests. Which request may run, and threads, are
``loop``'s matter; the model is the runner's.
Axis letters: K positions whose logits are wanted, T tokens of a prompt, V vocabulary.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from core.errors import GenerationFailed, ServiceError
from core.serving.fairness import Key
from worker.inference.kv_cache.prefix import PrefixCache
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.model.contract import Runner
from worker.inference.model.step_part import StepPart
from worker.inference.sampling.sampler import Choice, sample, score_prompt
from worker.inference.scheduler.request import Request
from worker.inference.scheduler.step_meter import StepMeter
from worker.inference.scheduler.step_plan import RunningRow, ScheduledRow, StepPlanner

logger = logging.getLogger(__name__)

# Between two steps in which other rows decode, factors are copied, so many bytes at a time, for half as long as the
# last step took: an adapter of some ten megabytes is there at the next step, and nobody waits for two of them.
COPIED_BYTES: Final = 2**23
COPIED_STEPS: Final = 0.5


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        generated: tokens by the line of their request.
        completed: the lengths of the completions that it ended.
        error: why it failed; its requests have been ended.
    """

    seconds: float
    rows: int
    prefill_tokens: int = 0
    generated: Counter[Key] = field(default_factory=Counter)
    completed: Sequence[int] = ()
    error: Exception | None = None


class Batch:
    """Up to ``max_rows`` requests; only one thread may use it, inside ``torch.inference_mode()``."""

    def __init__(
        self, runner: Runner, prefixes: PrefixCache, planner: StepPlanner, metrics: EngineMetrics, *, max_rows: int
    ) -> None:
        self._runner = runner
        self._prefixes = prefixes
        self._planner = planner
        self._metrics = metrics
        self._meter = StepMeter(runner, metrics.steps)
        self._max_rows = max_rows
        self._step_s = 0.0  # of the last step
        self._placing: dict[str | None, float] = {}  # since when rows wait for an adapter's factors, by its digest
        self.rows: tuple[RunningRow, ...] = ()  # in the order they came; replaced, so that others may read it

    @property
    def has_free_row(self) -> bool:
        """Whether one more request may run, as far as their number goes."""
        return len(self.rows) < self._max_rows

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(row.request.key for row in self.rows)

    @property
    def cached_bytes(self) -> int:
        """Keys and values of the rows' tokens, of what is reserved for them."""
        return sum(row.slot.length for row in self.rows) * self._runner.kv.shape.bytes_per_token

    def admit(self, request: Request) -> bool:
        """Give a request all that it can need; False where something of it is taken by others at present."""
        if not self.has_free_row:
            return False
        slot = self._runner.kv.allocate(request.prompt_tokens + request.sampling.max_tokens)
        if slot is None:
            return False
        if request.adapter is not None and not self._runner.bank.reserve(request.adapter):
            self._runner.kv.release(slot)
            return False
        row = RunningRow(request, slot)
        self.rows = (*self.rows, row)
        try:
            if not request.sampling.prompt_logprobs:  # they need the logits behind every token
                request.cached_tokens = self._prefixes.fill(slot, *request.key, request.prompt_ids)
        except Exception as error:
            self._fail([row], error)
        return True

    def abort_cancelled(self) -> None:
        for row in self.rows:
            if row.request.is_cancelled:
                self._remove(row)
                row.request.abort()

    def step(self) -> StepReport | None:
        """Take one step with all rows that can; None where there are none."""
        self._copy_factors()
        scheduled = self._planner.plan([row for row in self.rows if self._is_ready(row)])
        if not scheduled:
            return None
        self._meter.begin()
        began_s = time.monotonic()
        try:
            logits_KV = self._runner.forward([each.as_row() for each in scheduled])
            generated = self._append_sampled(scheduled, logits_KV)
            completed = [
                each.row.request.completion_tokens
                for each in scheduled
                if each.row.request.is_complete and not each.ends_request
            ]
        except Exception as error:
            self._fail([each.row for each in scheduled], error)
            return StepReport(time.monotonic() - began_s, len(scheduled), error=error)
        self._step_s = time.monotonic() - began_s
        self._meter.end(scheduled, self._step_s)
        prefill_tokens = sum(len(each.tokens) for each in scheduled if each.is_prefill)
        return StepReport(self._step_s, len(scheduled), prefill_tokens, generated, completed)

    def drop_adapter(self, digest: str) -> None:
        """Forget an adapter, and the prompts that it read, as soon as no row uses it."""
        self._runner.bank.drop(digest)
        self._prefixes.drop(digest)

    def close(self, error: ServiceError) -> None:
        """End all requests; their slots are of no use to anyone afterwards."""
        rows, self.rows = self.rows, ()
        for row in rows:
            row.request.end(error)

    def _is_ready(self, row: RunningRow) -> bool:
        return row.request.adapter is None or self._runner.bank.is_ready(row.request.adapter)

    def _copy_factors(self) -> None:
        """Copy factors of adapters that rows wait for: all of them where no other row waits for that."""
        waiting = [row for row in self.rows if not self._is_ready(row)]
        now_s = time.monotonic()
        self._placing = {row.request.key.adapter: self._placing.get(row.request.key.adapter, now_s) for row in waiting}
        if not waiting:
            return
        are_alone = len(waiting) == len(self.rows)
        ends_s = math.inf if are_alone else now_s + COPIED_STEPS * self._step_s
        while self._runner.bank.copy_some(COPIED_BYTES) and time.monotonic() < ends_s:
            pass
        for digest in {row.request.key.adapter for row in waiting if self._is_ready(row)}:
            self._metrics.adapter_place_seconds.observe(time.monotonic() - self._placing[digest])

    def _append_sampled(self, scheduled: Sequence[ScheduledRow], logits_KV: Tensor) -> Counter[Key]:
        """Sample the tokens that follow what was fed, and append them; give how many tokens each line got."""
        # a sum is finite only if all of its terms are, and is one pass over the logits
        finite_K: list[bool] = logits_KV.sum(dim=1).isfinite().tolist()
        sampling: list[tuple[ScheduledRow, range]] = []
        begin = 0
        for each in scheduled:
            wanted = range(begin, begin + each.wanted)
            begin = wanted.stop
            if not all(finite_K[position] for position in wanted):
                self._fail([each.row], None)
                continue
            if each.scored_ids:
                self._append_scores(each, logits_KV[wanted.start : wanted.start + len(each.scored_ids)])
            if each.samples_next:
                sampling.append((each, wanted[len(each.scored_ids) :]))
            elif each.ends_request:
                self._end_scored(each.row)
        positions = [position for _, wanted in sampling for position in wanted]
        samplers = [each.row.request.sampler for each, wanted in sampling for _ in wanted]
        everything = len(positions) == len(logits_KV)
        with self._runner.timer.part(StepPart.SAMPLE):
            choices = iter(sample(samplers, logits_KV if everything else logits_KV[positions]) if positions else ())
        generated: Counter[Key] = Counter()
        for each, wanted in sampling:
            generated[each.row.request.key] += self._advance(each, [next(choices) for _ in wanted])
        return generated

    def _append_scores(self, scheduled: ScheduledRow, logits_TV: Tensor) -> None:
        request = scheduled.row.request
        request.append_prompt_logprobs(score_prompt(logits_TV, scheduled.scored_ids, request.sampling.top_logprobs))

    def _end_scored(self, row: RunningRow) -> None:
        """Let a row leave whose prompt was all that was asked for."""
        row.request.complete_scored()
        self._remove(row)
        row.request.emit()

    def _advance(self, scheduled: ScheduledRow, choices: Sequence[Choice]) -> int:
        """Append a row's tokens, and let it leave if it is complete; give how many tokens were appended."""
        row, request = scheduled.row, scheduled.row.request
        before = request.completion_tokens
        try:
            row.append(choices, scheduled.draft_tokens)
        except Exception as error:
            self._fail([row], error)
            return request.completion_tokens - before
        if scheduled.is_prefill:
            self._prefixes.store(row.slot, *request.key, request.prompt_ids)
        if request.is_complete:
            self._remove(row)  # before the asker knows, who then finds everything free
        request.emit()
        return request.completion_tokens - before

    def _fail(self, rows: Sequence[RunningRow], error: Exception | None) -> None:
        """End rows whose slots may hold anything; without an ``error`` their logits were not finite."""
        if error is not None:
            logger.error("%d requests are ended by an error in their step", len(rows), exc_info=error)
        for row in rows:
            if row not in self.rows:  # it was complete before the error came
                continue
            self._remove(row, wipe=True)
            self._metrics.failed_rows.inc()
            row.request.end(_error_of(error, row.request))

    def _remove(self, row: RunningRow, *, wipe: bool = False) -> None:
        self.rows = tuple(other for other in self.rows if other is not row)
        self._runner.kv.release(row.slot, wipe=wipe)
        if row.request.adapter is not None:
            self._runner.bank.unpin(row.request.adapter)


def _error_of(error: Exception | None, request: Request) -> ServiceError:
    """Say why a row was ended."""
    if isinstance(error, ServiceError):
        return error
    of = f"adapter {request.adapter.digest[:12]}" if request.adapter else "the base model"
    if error is None:
        return GenerationFailed(f"the output of {of} for this request is not finite")
    return GenerationFailed(f"{type(error).__name__} in the model's step with {of}; the log has the details")
