"""The requests that run: each has a row with its slot and its adapter's columns, and takes part in the steps.

Says which tokens a step feeds, and gives what follows them to the answers. Which request may run, and threads, are
``decode_loop``'s matter; the model is the runner's. Axis letters: W logits that are wanted, V vocabulary.
"""

import logging
import sys
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
from worker.inference.model.step_timer import Part
from worker.inference.sampling.sampler import Choice, choose, score_prompt
from worker.inference.scheduler.request import Answer
from worker.inference.scheduler.step_meter import StepMeter
from worker.inference.scheduler.step_plan import Feed, Feeding, RunningRow

logger = logging.getLogger(__name__)

# Factors copied between two steps while other rows are answered: some per cent of a step's time at a memory's speed.
COPIED_BYTES: Final = 3 * 2**23
COPIED_BYTES_PER_S: Final = 200 * 2**20  # of the last step


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        generated: tokens by the line of their request.
        completed: the lengths of the answers that it completed.
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
        self, runner: Runner, prefixes: PrefixCache, feeding: Feeding, metrics: EngineMetrics, *, max_rows: int
    ) -> None:
        self._runner = runner
        self._prefixes = prefixes
        self._feeding = feeding
        self._metrics = metrics
        self._meter = StepMeter(runner, metrics.steps)
        self._max_rows = max_rows
        self._step_s = 0.0  # of the last step
        self._placing: dict[str | None, float] = {}  # since when rows wait for an adapter's factors, by its digest
        self.rows: tuple[RunningRow, ...] = ()  # in the order they came; replaced, so that others may read it

    @property
    def has_row(self) -> bool:
        """Whether one more request may run, as far as their number goes."""
        return len(self.rows) < self._max_rows

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(row.answer.key for row in self.rows)

    @property
    def cached_bytes(self) -> int:
        """Keys and values of the rows' tokens, of what is reserved for them."""
        return sum(row.slot.length for row in self.rows) * self._runner.kv.shape.bytes_per_token

    def seat(self, answer: Answer) -> bool:
        """Give a request all that it can need; False where something of it is taken by others at present."""
        if not self.has_row:
            return False
        slot = self._runner.kv.take(answer.prompt_tokens + answer.sampling.max_tokens)
        if slot is None:
            return False
        if answer.adapter is not None and not self._runner.bank.reserve(answer.adapter):
            self._runner.kv.release(slot)
            return False
        row = RunningRow(answer, slot)
        self.rows = (*self.rows, row)
        try:
            if not answer.sampling.prompt_logprobs:  # they need the logits behind every token
                answer.cached_tokens = self._prefixes.fill(slot, *answer.key, answer.prompt_ids)
        except Exception as error:
            self._fail([row], error)
        return True

    def drop_cancelled(self) -> None:
        for row in self.rows:
            if row.answer.is_cancelled:
                self._leave(row)
                row.answer.drop()

    def step(self) -> StepReport | None:
        """Take one step with all rows that can; None where there are none."""
        self._copy_factors()
        feeds = self._feeding.plan([row for row in self.rows if self._is_ready(row)])
        if not feeds:
            return None
        self._meter.begin()
        began_s = time.monotonic()
        try:
            logits_WV = self._runner.forward([feed.as_row() for feed in feeds])
            generated = self._take(feeds, logits_WV)
            completed = [feed.row.answer.completion_tokens for feed in feeds if feed.row.answer.is_complete]
        except Exception as error:
            self._fail([feed.row for feed in feeds], error)
            return StepReport(time.monotonic() - began_s, len(feeds), error=error)
        self._step_s = time.monotonic() - began_s
        self._meter.end(feeds, self._step_s)
        prefill_tokens = sum(len(feed.tokens) for feed in feeds if feed.reads_prompt)
        return StepReport(self._step_s, len(feeds), prefill_tokens, generated, completed)

    def drop_adapter(self, digest: str) -> None:
        """Forget an adapter, and the prompts that it read, as soon as no row uses it."""
        self._runner.bank.drop(digest)
        self._prefixes.drop(digest)

    def close(self, error: ServiceError) -> None:
        """End all answers; the rows' places are of no use to anyone afterwards."""
        rows, self.rows = self.rows, ()
        for row in rows:
            row.answer.end(error)

    def _is_ready(self, row: RunningRow) -> bool:
        return row.answer.adapter is None or self._runner.bank.is_ready(row.answer.adapter)

    def _copy_factors(self) -> None:
        """Copy factors of adapters that rows wait for: all at once where no other row waits for it."""
        waiting = [row for row in self.rows if not self._is_ready(row)]
        now_s = time.monotonic()
        self._placing = {row.answer.key.adapter: self._placing.get(row.answer.key.adapter, now_s) for row in waiting}
        if not waiting:
            return
        are_alone = len(waiting) == len(self.rows)
        limit = sys.maxsize if are_alone else max(COPIED_BYTES, int(COPIED_BYTES_PER_S * self._step_s))
        self._runner.bank.copy_some(limit)
        for digest in {row.answer.key.adapter for row in waiting if self._is_ready(row)}:
            self._metrics.placed(time.monotonic() - self._placing[digest])

    def _take(self, feeds: Sequence[Feed], logits_WV: Tensor) -> Counter[Key]:
        """Give each answer the tokens that follow what was fed; tell how many tokens each line got."""
        # a sum is finite only if all of its terms are, and is one pass over the logits
        finite_W: list[bool] = logits_WV.sum(dim=1).isfinite().tolist()
        choosing: list[tuple[Feed, range]] = []
        begin = 0
        for feed in feeds:
            wanted = range(begin, begin + feed.wanted)
            begin = wanted.stop
            if not all(finite_W[number] for number in wanted):
                self._fail([feed.row], None)
                continue
            if feed.scores:
                scored_TV = logits_WV[wanted.start : wanted.start + len(feed.scores)]
                feed.row.answer.note_prompt(score_prompt(scored_TV, feed.scores, feed.row.answer.sampling.top_logprobs))
            if feed.chooses:
                choosing.append((feed, wanted[len(feed.scores) :]))
        numbers = [number for _, wanted in choosing for number in wanted]
        samplers = [feed.row.answer.sampler for feed, wanted in choosing for _ in wanted]
        everything = len(numbers) == len(logits_WV)
        with self._runner.timer.part(Part.SAMPLE):
            choices = iter(choose(samplers, logits_WV if everything else logits_WV[numbers]) if numbers else ())
        generated: Counter[Key] = Counter()
        for feed, wanted in choosing:
            generated[feed.row.answer.key] += self._advance(feed, [next(choices) for _ in wanted])
        return generated

    def _advance(self, feed: Feed, choices: Sequence[Choice]) -> int:
        """Let an answer take its tokens, and leave if it is complete; give how many tokens it took."""
        row, answer = feed.row, feed.row.answer
        before = answer.completion_tokens
        try:
            row.take(choices, feed.guess)
        except Exception as error:
            self._fail([row], error)
            return answer.completion_tokens - before
        if feed.reads_prompt:
            self._prefixes.store(row.slot, *answer.key, answer.prompt_ids)
        if answer.is_complete:
            self._leave(row)  # before the asker knows, who then finds everything free
        answer.tell()
        return answer.completion_tokens - before

    def _fail(self, rows: Sequence[RunningRow], error: Exception | None) -> None:
        """End rows whose slots may hold anything; without an ``error`` their logits were not finite."""
        if error is not None:
            logger.error("%d requests are ended by an error in their step", len(rows), exc_info=error)
        for row in rows:
            if row not in self.rows:  # it was complete before the error came
                continue
            self._leave(row, wipe=True)
            self._metrics.failed_rows(1)
            row.answer.end(_told(error, row.answer))

    def _leave(self, row: RunningRow, *, wipe: bool = False) -> None:
        self.rows = tuple(other for other in self.rows if other is not row)
        self._runner.kv.release(row.slot, wipe=wipe)
        if row.answer.adapter is not None:
            self._runner.bank.unpin(row.answer.adapter)


def _told(error: Exception | None, answer: Answer) -> ServiceError:
    """Say why a row was ended."""
    if isinstance(error, ServiceError):
        return error
    of = f"adapter {answer.adapter.digest[:12]}" if answer.adapter else "the base model"
    if error is None:
        return GenerationFailed(f"the output of {of} for this request is not finite")
    return GenerationFailed(f"{type(error).__name__} in the model's step with {of}; the log has the details")
