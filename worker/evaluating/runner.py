"""Runs evaluations: has an engine answer and judge the rows of a claimed job, and gives the job the ending it earned.

Torch-free, and without any folder of its own: each scored row is written down under the job's lease, and the next
attempt, on whichever host, asks for the others. How a row is asked is ``worker.evaluating.asking``'s.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from functools import cached_property
from typing import Any, Final

import structlog

from core.errors import HostUnsuited
from core.evaluations.scores import ModelScores, ScoredRow
from core.evaluations.spec import EvaluationSpec
from core.jobs.attempt import AttemptEnd
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.serving.http_engine import HttpEngine
from core.settings import Settings
from core.store import evaluations as store
from core.store.queue import leases
from core.store.queue.control import RequestedAction
from core.store.queue.leases import LeaseLost
from worker.evaluating.asking import RowAsker
from worker.evaluating.questions import AskedRow, Questions, list_questions
from worker.evaluating.scores_file import store_scores
from worker.jobs.attempt import Attempt
from worker.jobs.duty import Duty, EveryHost
from worker.trainer_process.host_faults import host_faults

_TICK_S: Final = 0.2  # longest wait between two looks at what is asked of the job
_WRITE_S: Final = 1.0  # longest time that a scored row is not written

_log = structlog.stdlib.get_logger(__name__)


def evaluations(settings: Settings) -> Duty:
    """Give the duty to evaluate. A host needs nothing for it but its engines, and those are waited for."""
    return Duty(JobKind.EVALUATION, EveryHost(settings.base_models), EvaluationAttempt)


class _Stop(Enum):
    """Why an evaluation ends before all is scored."""

    CANCELLED = auto()
    WORKER_STOPS = auto()
    LEASE_IN_DOUBT = auto()


class EvaluationAttempt(Attempt):
    """One attempt at one evaluation."""

    @cached_property
    def _spec(self) -> EvaluationSpec:
        return EvaluationSpec.model_validate(self._job.spec)

    def _carry_out(self) -> None:
        url = self._settings.engine_urls.get(self._spec.base_model)
        if url is None:
            raise HostUnsuited(f"LORAMILL_ENGINE_URLS of this worker names no engine for {self._spec.base_model}")
        self._heartbeat.sign()
        questions = list_questions(self._settings, self._runtime.blobs, self._spec)
        self._persist(
            lambda: self._claim.write(lambda session: store.add_examples(session, self._job.id, questions.rows))
        )
        stop = asyncio.run(self._ask(url, self._list_open(questions), len(questions.asked)))
        if stop is None:
            self._conclude()
        elif stop is _Stop.CANCELLED:
            self._persist(lambda: self._claim.cancel(AttemptEnd()))
            _log.info("evaluation cancelled")
        else:
            self._persist(lambda: self._claim.release(leases.RELEASED, AttemptEnd()))
            _log.info("evaluation released", why=stop.name.lower())

    def _list_open(self, questions: Questions) -> deque[AskedRow]:
        """List what has not been asked yet, model by model, so that few adapters are needed at a time."""
        scored = self._persist(self._read_scored)
        still_open = deque(each for each in questions.asked if (each.model_index, each.number) not in scored)
        names = ", ".join(model.name for model in self._spec.models)
        begun = f"; {len(scored):,} answers are scored already" if scored else ""
        said = JobEvent(
            f"Asks {names} for the answers to {len(self._spec.lines):,} rows of {self._spec.file.id}{begun}"
        )
        progress = self._progress(len(questions.asked), len(still_open), 0, 0.0, None)
        self._persist(lambda: self._claim.report([said], progress=progress))
        return still_open

    def _read_scored(self) -> set[tuple[int, int]]:
        with self._runtime.database.read() as session:
            return store.list_scored(session, self._job.id)

    def _read_scores(self, rows: range) -> list[ModelScores]:
        names = [model.name for model in self._spec.models]

        def read() -> list[ModelScores]:
            with self._runtime.database.read() as session:
                return store.list_scores(session, self._job.id, names, rows)

        return self._persist(read)

    async def _ask(self, url: str, questions: deque[AskedRow], total: int) -> _Stop | None:
        """Have the questions answered, of ``total``, and write the scores down as they come; None: all are."""
        engine = HttpEngine(self._spec.base_model, url)
        asker = RowAsker(engine, self._spec, job_id=self._job.id, caller=self._job.caller)
        try:
            return await self._ask_all(asker, questions, total)
        finally:
            await engine.close()

    async def _ask_all(self, asker: RowAsker, questions: deque[AskedRow], total: int) -> _Stop | None:
        asked: set[asyncio.Task[ScoredRow]] = set()
        scored: list[ScoredRow] = []
        began_s = written_s = time.monotonic()
        to_ask, waits_for = len(questions), None
        try:
            while questions or asked or scored:
                while questions and len(asked) < asker.at_once:
                    asked.add(asyncio.create_task(asker.ask(questions.popleft())))
                done, asked = await asyncio.wait(asked, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
                scored += [task.result() for task in done]
                self._heartbeat.sign()
                now_s = time.monotonic()
                is_due = bool(scored) and (not asked or now_s - written_s >= _WRITE_S)
                stop = self._find_stop()
                if is_due or asker.waits_for != waits_for or (stop and scored):
                    left = len(questions) + len(asked)
                    progress = self._progress(total, left, to_ask - left, now_s - began_s, asker.waits_for)
                    await asyncio.to_thread(self._write, scored, progress)
                    scored, written_s, waits_for = [], now_s, asker.waits_for
                if stop is not None:
                    return stop
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    def _find_stop(self) -> _Stop | None:
        if self._claim.lost:
            raise LeaseLost(self._lease)
        if self._claim.requested_action is RequestedAction.CANCEL:
            return _Stop.CANCELLED
        if self._stop.requested:
            return _Stop.WORKER_STOPS
        return _Stop.LEASE_IN_DOUBT if self._claim.may_be_lost else None

    def _write(self, scored: Sequence[ScoredRow], progress: dict[str, Any]) -> None:
        self._persist(
            lambda: self._claim.write(lambda session: store.add_scored(session, self._job.id, scored), progress)
        )

    def _progress(self, total: int, left: int, answered: int, took_s: float, waits_for: str | None) -> dict[str, Any]:
        return {
            "answers": total - left,
            "total_answers": total,
            "eta_s": round(took_s / answered * left) if answered else None,
            "waits_for": waits_for,
        }

    def _conclude(self) -> None:
        """Make the result of all rows, and the file of their scores, and have the job succeed."""
        # statistics, and with them numpy, are for the end of an evaluation, not for the start of every worker
        from core.evaluations.memory import report_memory
        from core.evaluations.result import make_result

        models = self._read_scores(self._spec.judged_rows)
        memory = report_memory(self._spec, self._read_scores)
        result = make_result(self._spec, models, self._heartbeat.sign, memory)
        event = JobEvent(f"The evaluation has successfully completed. {result.text}")

        def conclude() -> None:
            # stored anew with each try: what nothing refers to yet may have been freed in between
            with host_faults("store the scores"):
                self._heartbeat.sign()
                scores = store_scores(self._runtime.database, self._runtime.blobs, self._job.id, self._spec)
            self._claim.conclude(event, result.model_dump(mode="json"), scores, AttemptEnd())

        self._persist(conclude)
        _log.info("evaluation succeeded", rows=result.rows, models=len(models))
