"""Runs trainings: lets a trainer train a claimed job, and gives the job the ending it earned."""

import signal
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import structlog

from core.errors import HostUnfit, HostUnsuited, ServiceError, WorkerLost
from core.jobs.attempt import AttemptEnd, JobError, Publication
from core.jobs.events import EventLevel, JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import JobSpec, model_name
from core.store import adapters, files
from core.store.jobs import NewJob
from core.store.queue import leases
from core.store.queue.unfit_hosts import UNPUBLISHED
from core.store.tables import JobRecord
from worker.jobs.attempt import Attempt
from worker.jobs.duty import Duty, Gate
from worker.jobs.filling import fill_run_folder
from worker.jobs.publication.follow_up import evaluation_after
from worker.jobs.publication.prefetch import prefetch_in_background
from worker.jobs.publication.publishing import find_finished, store_result
from worker.jobs.publication.rerun import choices_to_repeat, judged
from worker.jobs.run_folders import drop_inputs, drop_large_files
from worker.jobs.runtime import WorkerRuntime
from worker.jobs.supervision import StopReason, Supervision
from worker.jobs.together import StartTrainer, claim_beside, run_together, start_trainer
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.messages import Failed, Finished
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.run_folder import EXIT_DONE
from worker.trainer_process.stop import StopFlag

_LOG_LINES: Final = 12
_LINES_NAMED: Final = 20

_log = structlog.stdlib.get_logger(__name__)


def trainings(gate: Gate) -> Duty:
    """Give the duty to train, jobs that may be together."""
    return Duty(JobKind.FINE_TUNING, gate, TrainingAttempt, claim_beside, _train_together)


def _train_together(runtime: WorkerRuntime, jobs: Sequence[JobRecord], stop: StopFlag) -> None:
    def attempt(job: JobRecord, start: StartTrainer) -> None:
        with structlog.contextvars.bound_contextvars(job_id=job.id, token=job.token):
            _log.info("job claimed, to be trained together with others", others=len(jobs) - 1)
            TrainingAttempt(runtime, job, stop, start).run()

    run_together(runtime, [partial(attempt, job) for job in jobs])


class TrainingAttempt(Attempt):
    """One attempt at one training.

    Args:
        start: starts its trainer; None: a process of its own.
    """

    def __init__(
        self, runtime: WorkerRuntime, job: JobRecord, stop: StopFlag, start: StartTrainer | None = None
    ) -> None:
        super().__init__(runtime, job, stop)
        self._start = start or self._start_own

    @cached_property
    def _spec(self) -> JobSpec:
        return JobSpec.model_validate(self._job.spec)

    @cached_property
    def _model(self) -> str:
        return model_name(self._spec.base_model, self._settings.organization, self._job.suffix, self._job.id)

    def _carry_out(self) -> None:
        earlier = find_finished(self._settings.runs_folder, self._job.id)
        if earlier is None:
            self._train()
            return
        folder, finished = earlier
        _log.info("result of an earlier attempt found", folder=folder.name)
        if self._publish(finished, folder):
            drop_large_files(folder)

    def _train(self) -> None:
        choices = self._persist(lambda: choices_to_repeat(self._runtime.database, self._job))
        folder = fill_run_folder(
            self._settings, self._runtime.blobs, self._lease, self._spec, self._model, self._heartbeat, choices
        )
        with host_faults("start the trainer"):
            trainer = self._start(folder, self._heartbeat.sign)
        with trainer, self._heartbeat.guarding(trainer.kill):
            watch = Supervision(
                trainer, self._claim, self._heartbeat, self._runtime.blobs, self._settings, self._stop, self._model
            )
            watch.run()
        self._conclude(watch, folder)

    def _start_own(self, folder: Path, _: Callable[[], None]) -> TrainerProcess:
        return start_trainer(self._runtime, [folder])

    def _conclude(self, watch: Supervision, folder: Path) -> None:
        """Give the attempt the one ending that fits how its trainer ended."""
        self._persist(watch.write_rest)
        journal = watch.journal
        if watch.reason is StopReason.CANCELLED:
            self._persist(lambda: self._claim.cancel(watch.end))
            _log.info("job cancelled")
        elif watch.trainer.exit_code == EXIT_DONE and journal.finished is not None:
            if not self._publish(journal.finished, folder):
                drop_inputs(folder)
                return
        elif journal.failed is not None and journal.failed.of_host:
            kind = HostUnsuited if journal.failed.unsuited else HostUnfit
            self._give_back(kind(journal.failed.message), watch.end)
            drop_inputs(folder)
            return
        elif journal.failed is not None:
            param = "training_file" if journal.failed.lines else None
            self._fail(JobError(journal.failed.code, _with_lines(journal.failed), param), watch.end)
        elif watch.reason in (StopReason.PAUSED, StopReason.WORKER_STOPS, StopReason.LEASE_IN_DOUBT):
            outcome = leases.PAUSED if watch.reason is StopReason.PAUSED else leases.RELEASED
            self._persist(lambda: self._claim.release(outcome, watch.end))
            _log.info("job released", why=outcome, last_step=journal.last_step)
            return
        elif not watch.has_spoken:
            # it came to nothing of the job, so the job cannot be what it died of
            fault = HostUnfit(f"{_describe_end(watch)}, before it said anything")
            self._give_back(fault, watch.end, watch.trainer.last_lines(_LOG_LINES))
            drop_inputs(folder)
            return
        elif self._job.attempts < self._settings.max_attempts:
            self._try_again(watch)
            return
        else:
            lines = watch.trainer.last_lines(_LOG_LINES)
            last_words = "; its last words:\n" + "\n".join(lines) if lines else ""
            message = f"{_describe_end(watch)} in attempt {self._job.attempts}, the last one{last_words}"
            self._fail(JobError(WorkerLost.code, message), watch.end)
        drop_large_files(folder)

    def _publish(self, finished: Finished, folder: Path) -> bool:
        """Make the job succeed; or give it back, leave the result where it is, and give False."""
        end = AttemptEnd(last_step=finished.steps)

        def publish() -> str:
            # stored anew with each try: what nothing refers to yet may have been freed in between
            publication, results = store_result(self._runtime.blobs, folder, finished, self._model, self._heartbeat)
            publication, told = judged(self._runtime.database, self._runtime.blobs, self._job, publication)
            self._claim.publish(publication, results, end, self._follow_up(publication), told)
            return publication.adapter.sha256

        try:
            adapter = self._persist(publish)
        except HostUnfit as fault:
            self._give_back(fault, end, what="store the result of its training", outcome=UNPUBLISHED)
            return False
        _log.info("job succeeded", model=self._model, steps=finished.steps)
        prefetch_in_background(self._settings.engine_urls, self._spec.base_model, adapter)
        return True

    def _follow_up(self, publication: Publication) -> NewJob | None:
        """Give the evaluation that the job ends with; that there can be none is told, and costs the job nothing."""
        if self._spec.evaluation is None:
            return None
        file = self._spec.validation_file or self._spec.training_file
        with self._runtime.database.read() as session:
            is_chat = files.get(session, file.id).example_format == "messages"
        try:
            asked = evaluation_after(
                self._job,
                publication,
                self._settings,
                self._runtime.blobs,
                is_chat=is_chat,
                earlier_spec=self._find_spec,
            )
            reason = "fewer than two rows are held out that can be asked"
        except ServiceError as problem:
            asked, reason = None, str(problem)
        if asked is None:
            told = JobEvent(f"The adapter is not evaluated: {reason}", EventLevel.WARN)
            self._claim.report([told])
        return asked

    def _find_spec(self, model: str) -> JobSpec | None:
        with self._runtime.database.read() as session:
            return adapters.find_spec(session, model)

    def _try_again(self, watch: Supervision) -> None:
        """Put a job whose trainer died back into the queue; it goes on from its newest checkpoint."""
        ending = f"{_describe_end(watch)} in attempt {self._job.attempts} of {self._settings.max_attempts}"
        log_lines = {"log": watch.trainer.last_lines(_LOG_LINES)}
        watch.journal.pending.append(JobEvent(ending[0].upper() + ending[1:], EventLevel.WARN, data=log_lines))
        self._persist(watch.write_rest)
        outcome = "trainer silent" if watch.reason is StopReason.SILENT else "trainer died"
        self._persist(lambda: self._claim.release(outcome, watch.end))
        _log.warning("trainer lost", how=ending)


def _describe_end(watch: Supervision) -> str:
    if watch.reason is StopReason.SILENT:
        return f"the trainer said nothing for {watch.settings.stall_s:g} s and was killed"
    code = watch.trainer.exit_code
    assert code is not None
    if code < 0:
        return f"the trainer was killed by {signal.Signals(-code).name}"
    return f"the trainer ended with exit status {code} and no result"


def _with_lines(failed: Failed) -> str:
    if not failed.lines:
        return failed.message
    named = ", ".join(map(str, failed.lines[:_LINES_NAMED]))
    more = f" and {len(failed.lines) - _LINES_NAMED} more" if len(failed.lines) > _LINES_NAMED else ""
    return f"{failed.message} (training file, line {named}{more})"
