"""The engine's thread: takes waiting answers into the batch, steps the model, lets finished ones go.

Owns the queue and what a failure may harm. Tokenising, adapters and the asking side are ``engine``'s.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.errors import EngineBusy, EngineUnavailable, GenerationFailed
from worker.inference.answers import Answer
from worker.inference.decoding import Batch, Decoder

logger = logging.getLogger(__name__)

# A step that fails may be one request's doing. Several in a row are the process's own trouble (memory,
# a lost device), which only a restart mends.
FAILURES_UNTIL_DEATH = 3


class DecodeLoop:
    """Answers up to ``max_batch`` requests at once on a thread of its own, in the order they came.

    New rows are prefilled by themselves and join the running batch before its next step. ``on_death`` is
    called in the thread when it ends by itself rather than by ``stop``.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        base_model: str,
        max_batch: int,
        max_waiting: int,
        on_death: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._base_model = base_model
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_death = on_death
        self._wake = threading.Condition()  # guards the three below
        self._waiting: deque[Answer] = deque()
        self._is_stopping = False
        self._is_over = False
        self._running: list[Answer] = []  # answer i has row i of the batch; only the thread touches these
        self._batch: Batch | None = None
        self._failures = 0  # in a row
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; answers not finished by then get EngineUnavailable."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_over

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def running_count(self) -> int:
        return len(self._running)

    def submit(self, answer: Answer) -> None:
        """Queue an answer.

        Raises:
            EngineBusy: the queue is full.
            EngineUnavailable: the thread has ended.
        """
        with self._wake:
            if self._is_over:
                raise EngineUnavailable(self._base_model, "it is stopping")
            if len(self._waiting) >= self._max_waiting:
                raise EngineBusy(len(self._waiting))
            self._waiting.append(answer)
            self._wake.notify()

    def cancel(self, answer: Answer) -> None:
        """Stop working for an answer: at once while it waits, before the next step while it runs."""
        answer.is_cancelled = True
        with self._wake:
            if answer not in self._waiting:
                return
            self._waiting.remove(answer)
        answer.end()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._admit()
                    self._step()
        except Exception:
            logger.exception("the decode loop died")
        finally:
            self._close()

    def _await_work(self) -> bool:
        """Wait for something to do; False when the loop must end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._running or self._is_stopping)
            return not self._is_stopping

    def _close(self) -> None:
        with self._wake:
            self._is_over = True
            left = [*self._running, *self._waiting]
            self._waiting.clear()
        for answer in left:
            answer.end(EngineUnavailable(self._base_model, "it stopped before the answer was complete"))
        self._running, self._batch = [], None
        if not self._is_stopping:
            self._on_death()

    def _admit(self) -> None:
        """Prefill waiting answers, as many as there are free rows; a failure harms only these."""
        with self._wake:
            free = min(self._max_batch - len(self._running), len(self._waiting))
            joining = [self._waiting.popleft() for _ in range(free)]
        if not joining:
            return
        # rows of one adapter together, so that they are one slice of the batch
        joining.sort(key=lambda answer: answer.adapter.digest if answer.adapter else "")
        try:
            prompts, adapters = [a.prompt_ids for a in joining], [a.adapter for a in joining]
            batch, logits_BV = self._decoder.prefill(prompts, adapters)
            going_on = self._take(joining, logits_BV)
        except Exception as error:
            self._contain(joining, error)
            return
        if going_on:
            batch.keep(going_on)
            self._join(batch, [joining[row] for row in going_on])

    def _join(self, batch: Batch, answers: list[Answer]) -> None:
        everyone = [*self._running, *answers]
        try:
            if self._batch is None:
                self._batch = batch
            else:
                self._batch.join(batch)
            self._running = everyone
        except Exception as error:
            # some layers have the new rows already and others not
            self._running, self._batch = [], None
            self._contain(everyone, error)

    def _step(self) -> None:
        """Give every running answer its next token; a failure ends them all, but not the loop."""
        everyone = self._running
        try:
            self._keep([row for row, answer in enumerate(everyone) if not self._drop_cancelled(answer)])
            if self._batch is None:
                return
            logits_BV = self._decoder.step(self._batch, [answer.next_id for answer in self._running])
            self._keep(self._take(self._running, logits_BV))
            self._failures = 0
        except Exception as error:
            self._running, self._batch = [], None
            self._contain(everyone, error)

    def _take(self, answers: Sequence[Answer], logits_BV: Tensor) -> list[int]:
        """Let each answer take its row of logits; give the rows that go on."""
        finite_B: list[bool] = logits_BV.isfinite().all(dim=1).tolist()
        going_on = []
        for row, answer in enumerate(answers):
            if not finite_B[row]:
                answer.end(GenerationFailed("the model's output for this request is not finite"))
            elif answer.take(logits_BV[row]):
                going_on.append(row)
        return going_on

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self._running):
            return
        self._running = [self._running[row] for row in rows]
        if not rows:
            self._batch = None
        elif self._batch is not None:
            self._batch.keep(rows)

    def _drop_cancelled(self, answer: Answer) -> bool:
        if answer.is_cancelled:
            answer.end()
        return answer.is_cancelled

    def _contain(self, answers: Sequence[Answer], error: Exception) -> None:
        logger.error("a step failed; %d requests are ended", len(answers), exc_info=error)
        for answer in answers:
            answer.end(GenerationFailed(f"{type(error).__name__} in the model's step; the log has the details"))
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_DEATH:
            raise RuntimeError(f"{self._failures} steps failed in a row") from error
