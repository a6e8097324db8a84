"""The scheduler: continuous batching with chunked prefill on a thread of its own.

Between any two steps waiting requests are admitted to the running batch, in fair turns, and complete ones have left it.
Owns the waiting queue, admission, and what a failure may harm. What a step does is ``batch``'s matter, which tokens it
computes ``step_plan``'s; tokenising, loading adapters and the asking side are ``engine``'s.
"""

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import torch

from core.errors import EngineUnavailable, GenerationFailed
from core.serving.admission import Limits, Load
from core.serving.fairness import FairQueue, Key, Ticket
from core.settings import Settings
from worker.inference.kv_cache.budget import prefix_bytes
from worker.inference.kv_cache.prefix import PrefixCache
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.model.contract import Runner
from worker.inference.native.unused_memory import release_unused_memory
from worker.inference.scheduler.batch import Batch, StepReport
from worker.inference.scheduler.request import Request
from worker.inference.scheduler.step_budget import UNTRIED, StepBudget
from worker.inference.scheduler.step_plan import StepPlanner
from worker.inference.scheduler.throughput import EngineThroughput
from worker.inference.tuning.autotuner import Autotuner
from worker.inference.watchdog import Heartbeat

logger = logging.getLogger(__name__)

# A step that fails may be one request's doing. Several in a row are the process's own trouble (memory,
# a lost device), which only a restart mends.
FAILURES_UNTIL_DEATH: Final = 3


class SchedulerLoop:
    """Runs requests on a thread of its own, ``engine_max_batch`` at once, callers and adapters by fair turns.

    A request is admitted when there is room for all that it can need, so none is ever preempted for another.
    ``on_death`` is called in the thread when it ends by itself rather than by ``stop``.
    """

    def __init__(
        self,
        runner: Runner,
        settings: Settings,
        metrics: EngineMetrics,
        *,
        base_model: str,
        on_death: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._base_model = base_model
        self.heartbeat = Heartbeat(settings.engine_stall_s)
        metrics.heartbeat_age_seconds.set_function(lambda: self.heartbeat.age_s)
        self._on_death = on_death
        self._limits = Limits(settings.engine_max_waiting, settings.engine_max_waiting_tokens)
        self.throughput = EngineThroughput()
        self._wake = threading.Condition()  # guards the four below
        self._queue: FairQueue[Request] = FairQueue()
        self._dropped: list[str] = []  # digests of adapters that are to be forgotten
        self._is_stopping = False
        self._is_over = False
        self._planner = StepPlanner(
            UNTRIED[runner.kv.shape.device.type],
            prefill_tokens=settings.engine_prefill_tokens,
            speculates=settings.engine_speculation,
        )
        self._prefixes = PrefixCache(runner.kv, prefix_bytes(settings, runner.kv.limit_bytes))
        self._batch = Batch(
            runner,
            self._prefixes,
            self._planner,
            metrics,
            max_rows=settings.engine_max_batch,
        )
        self._failures = 0  # in a row
        self._tuner: Autotuner | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()
        # an interpreter that ends would unwind the thread inside torch's C++, which aborts the process
        atexit.register(self.stop)

    def use_budget(self, budget: StepBudget) -> None:
        """Give steps so many tokens; before the thread runs, or between its steps."""
        self._planner.budget = budget

    def tune_when_idle(self, tuner: Autotuner) -> None:
        """Have a tuner try again what it could not decide, whenever there was nothing to do for a while."""
        self._tuner = tuner

    def stop(self) -> None:
        """End the thread after its present step; requests not complete by then get EngineUnavailable.

        A thread that hangs in its step is left behind; it ends with the process.
        """
        atexit.unregister(self.stop)
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join(self.heartbeat.stall_s)

    @property
    def is_alive(self) -> bool:
        """False once the thread has ended, or while it hangs in a step."""
        return self._thread.is_alive() and not self._is_over and not self.heartbeat.is_stalled

    @property
    def waiting(self) -> Load:
        with self._wake:
            return self._load()

    @property
    def waiting_by_adapter(self) -> dict[str | None, Load]:
        """What waits for each adapter, by its digest; None is the base model."""
        with self._wake:
            waiting = [(request.key.adapter, request.prompt_tokens) for request in self._queue]
        loads: dict[str | None, Load] = {}
        for adapter, prompt_tokens in waiting:
            load = loads.get(adapter, Load(0, 0))
            loads[adapter] = Load(load.requests + 1, load.prompt_tokens + prompt_tokens)
        return loads

    @property
    def running_count(self) -> int:
        return len(self._batch.rows)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineBusy: the queue is full.
            EngineUnavailable: the thread has ended.
        """
        with self._wake:
            if self._is_over:
                raise EngineUnavailable(self._base_model, "it is stopping")
            self._limits.check(self._load(), request.prompt_tokens, self.throughput)
            self._queue.add(request, request.key, time.monotonic())
            self._wake.notify()

    def check_room(self, preparing: int) -> None:
        """See whether one more request may come while so many are prepared for the queue.

        Raises:
            EngineBusy: it may not.
        """
        waiting = self.waiting
        self._limits.check(Load(waiting.requests + preparing, waiting.prompt_tokens), 0, self.throughput)

    def cancel(self, request: Request) -> None:
        """Stop working for a request: at once while it waits, before the next step while it runs."""
        request.is_cancelled = True
        with self._wake:
            if not self._queue.remove(request):
                return
        request.abort()

    def drop_adapter(self, digest: str) -> None:
        """Forget an adapter and what it has read, between two steps, as soon as no request uses it."""
        with self._wake:
            self._dropped.append(digest)
            self._wake.notify()

    def step(self) -> None:
        """Admit requests and take one step. Only the thread calls it, and tests of a loop that was not started."""
        with self._wake:
            dropped, self._dropped = self._dropped, []
        for digest in dropped:
            self._batch.drop_adapter(digest)
        self._batch.abort_cancelled()
        self._admit_waiting()
        report = self._batch.step()
        with self._wake:
            self._queue.account(report.generated if report else Counter[Key](), self._batch.keys)
            spread = self._queue.spread
        self._metrics.callers_spread_tokens.set(spread)
        self._metrics.lora_columns_used.set(self._runner.bank.used_columns)
        self._metrics.lora_columns.set(self._runner.bank.columns)
        self._metrics.kv_used_bytes.set(self._batch.cached_bytes)
        self._metrics.prefix_bytes.set(self._prefixes.used_bytes)
        if report is not None:
            self._note_step(report)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._await_work():
                    self.step()
        except Exception:
            logger.exception("the scheduler died")
        finally:
            self._close()

    def _await_work(self) -> bool:
        """Wait for something to do; False when the loop must end."""
        while True:
            with self._wake:
                self.heartbeat.rest()
                is_wanted = self._wake.wait_for(self._is_wanted, None if self._tuner is None else self._tuner.idle_s)
                self.heartbeat.beat()
                if is_wanted:
                    self._metrics.last_step_timestamp_seconds.set_to_current_time()
                    return not self._is_stopping
            assert self._tuner is not None, "without one the wait has no end"
            self._tuner.try_again(self._is_wanted)
            if self._runner.kv.shape.device.type == "cpu":
                self._runner.kv.shrink()  # trials take more than requests may ever need again
                release_unused_memory()

    def _is_wanted(self) -> bool:
        """Tell whether there is something to do; asked without the lock, it is as good as a moment ago."""
        return bool(self._batch.rows or len(self._queue) or self._dropped or self._is_stopping)

    def _close(self) -> None:
        self.heartbeat.rest()
        with self._wake:
            self._is_over = True
            waiting = self._queue.clear()
        error = EngineUnavailable(self._base_model, "it stopped before the answer was complete")
        for request in waiting:
            request.end(error)
        self._batch.close(error)
        if not self._is_stopping:
            self._on_death()

    def _admit_waiting(self) -> None:
        """Give rows to waiting requests, in turn, as long as there is room."""
        passed: set[Key] = set()
        while self._batch.has_free_row:
            with self._wake:
                ticket = self._queue.pop(time.monotonic(), passed)
            if ticket is None:
                return
            if not self._admit(ticket):
                passed.add(ticket.key)

    def _admit(self, ticket: Ticket[Request]) -> bool:
        """Give a request a row, or its place in the queue again if there is no room for it; tell which."""
        request = ticket.item
        try:
            is_admitted = self._batch.admit(request)
        except Exception as error:
            request.end(GenerationFailed(f"{type(error).__name__} when room was made for it; the log has the details"))
            self._count_failure(error)
            return True
        with self._wake:
            # one that was cancelled while it stood in neither place is the loop's to end
            is_left = not is_admitted and request.is_cancelled
            if is_admitted:
                self._queue.serve(ticket, request.prompt_tokens - request.cached_tokens, time.monotonic())
            elif not is_left:
                self._queue.put_back(ticket)
        if is_left:
            request.abort()
        return is_admitted

    def _note_step(self, report: StepReport) -> None:
        """Measure a step, and count one that failed."""
        if report.error is not None:
            self._count_failure(report.error)
            return
        self._failures = 0
        decode_tokens = report.generated.total()
        self.throughput.note_step(report.seconds, report.prefill_tokens, decode_tokens)
        for completion_tokens in report.completed:
            self.throughput.note_completion(completion_tokens)
        self._metrics.step_seconds.observe(report.seconds)
        self._metrics.step_rows.observe(report.rows)
        self._metrics.prefill_tokens.inc(report.prefill_tokens)
        self._metrics.decode_tokens.inc(decode_tokens)

    def _count_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_DEATH:
            raise RuntimeError(f"{self._failures} steps failed in a row") from error

    def _load(self) -> Load:
        return Load(len(self._queue), sum(request.prompt_tokens for request in self._queue))
