"""Runs queued jobs: claims one, lets a trainer train it, and gives the job the ending it earned.

Exceptions end here: what goes wrong with a job becomes the job's error, what goes wrong with this host gives the
job back, and a lost lease ends the attempt without a word, because the job is another worker's by then.
"""

import signal
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import structlog

from core.errors import BlobFreed, DatabaseUnavailable, HostUnfit, HostUnsuited, ServiceError, StorageFull, WorkerLost
from core.jobs.attempt import AttemptEnd, JobError
from core.jobs.events import EventLevel, JobEvent
from core.jobs.spec import JobSpec, model_name
from core.store import leases
from core.store.leases import Lease, LeaseLost
from core.store.tables import JobRecord
from core.store.unfit_hosts import UNFIT, UNPUBLISHED, UNSUITED
from worker.jobs.claim import Claim
from worker.jobs.filling import fill_run_folder
from worker.jobs.heartbeat import LeaseHeartbeat
from worker.jobs.host_gate import HostGate
from worker.jobs.prefetch import prefetch_in_background
from worker.jobs.publishing import find_finished, store_result
from worker.jobs.run_folders import drop_inputs, drop_large_files
from worker.jobs.runtime import WorkerRuntime
from worker.jobs.slot import WorkerSlot
from worker.jobs.supervision import StopReason, Supervision
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.messages import Failed, Finished
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.run_folder import EXIT_DONE
from worker.trainer_process.stop import StopFlag

_RETRY_S: Final = 0.5
_LOG_LINES: Final = 12
_LINES_NAMED: Final = 20

Written = TypeVar("Written")

_log = structlog.stdlib.get_logger(__name__)


def run_queued(runtime: WorkerRuntime, slot: WorkerSlot, stop: StopFlag, gate: HostGate) -> None:
    """Run jobs until none is queued; return at once when this worker is already at it."""
    with slot.take() as free:
        while free and not stop.requested:
            if not run_next(runtime, stop, gate):
                return


def run_next(runtime: WorkerRuntime, stop: StopFlag, gate: HostGate) -> bool:
    """Run the oldest queued job to its end or release, and tell whether there was one that this host may run."""
    try:
        base_models = gate.claimable()
        if not base_models:
            return False
        with runtime.database.write() as session:
            now = int(runtime.wall_clock())
            job = leases.claim(session, runtime.identity, base_models, now, given_back_last=gate.is_on_trial)
    except (DatabaseUnavailable, StorageFull) as problem:
        _log.warning("no look for jobs", reason=str(problem))
        return False
    if job is None:
        return False
    with structlog.contextvars.bound_contextvars(job_id=job.id, token=job.token):
        _log.info("job claimed", attempt=job.attempts)
        Attempt(runtime, job, stop).run()
    return True


class Attempt:
    """One attempt at one job, from its claim to the write that ends it."""

    def __init__(self, runtime: WorkerRuntime, job: JobRecord, stop: StopFlag) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._job = job
        self._stop = stop
        self._lease = Lease(job.id, job.token)
        self._claim = Claim(
            runtime.database,
            runtime.blobs,
            self._lease,
            lease_ttl_s=runtime.settings.lease_ttl_s,
            wall_clock=runtime.wall_clock,
        )
        self._heartbeat = LeaseHeartbeat(
            self._claim, every_s=self._settings.heartbeat_s, patience_s=self._settings.stall_s
        )

    @cached_property
    def _spec(self) -> JobSpec:
        return JobSpec.model_validate(self._job.spec)

    @cached_property
    def _model(self) -> str:
        return model_name(self._spec.base_model, self._settings.organization, self._job.suffix, self._job.id)

    def run(self) -> None:
        """Train and end the attempt; whatever becomes of the job, nothing is raised."""
        try:
            with self._heartbeat:
                self._train_or_fail()
        except LeaseLost:
            _log.warning("job left alone: the lease was lost, or the job has ended")
        except (BlobFreed, DatabaseUnavailable, StorageFull) as problem:
            _log.warning("job left to the sweepers", reason=str(problem))

    def _train_or_fail(self) -> None:
        try:
            self._train_or_publish()
        except (LeaseLost, BlobFreed, DatabaseUnavailable):
            raise
        except HostUnfit as fault:
            self._give_back(fault)
        except ServiceError as problem:
            self._fail(JobError(problem.code, str(problem), problem.param), AttemptEnd())
        except Exception:
            # The one broad catch: a mistake of ours must end the job, not the worker.
            _log.exception("mistake in the worker")
            self._fail(JobError("internal_error", "the worker made a mistake; its log tells more"), AttemptEnd())

    def _train_or_publish(self) -> None:
        earlier = find_finished(self._settings.runs_folder, self._job.id)
        if earlier is None:
            self._train()
            return
        folder, finished = earlier
        _log.info("result of an earlier attempt found", folder=folder.name)
        if self._publish(finished, folder):
            drop_large_files(folder)

    def _train(self) -> None:
        folder = fill_run_folder(
            self._settings, self._runtime.blobs, self._lease, self._spec, self._model, self._heartbeat
        )
        with host_faults("start the trainer"):
            trainer = TrainerProcess(
                folder, niceness=self._settings.trainer_niceness, command=self._runtime.trainer_command
            )
        with trainer, self._heartbeat.guarding(trainer.kill):
            watch = Supervision(
                trainer, self._claim, self._heartbeat, self._runtime.blobs, self._settings, self._stop, self._model
            )
            watch.run()
        self._conclude(watch, folder)

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
            self._claim.publish(publication, results, end)
            return publication.adapter.sha256

        try:
            adapter = self._persist(publish)
        except HostUnfit as fault:
            self._give_back(fault, end, outcome=UNPUBLISHED)
            return False
        _log.info("job succeeded", model=self._model, steps=finished.steps)
        prefetch_in_background(self._settings.engine_urls, self._spec.base_model, adapter)
        return True

    def _give_back(
        self, fault: HostUnfit, end: AttemptEnd | None = None, log: Sequence[str] = (), *, outcome: str | None = None
    ) -> None:
        """Put the job back into the queue, uncounted, because this host cannot run it now.

        ``outcome`` None: by the fault.
        """
        outcome = outcome or (UNSUITED if isinstance(fault, HostUnsuited) else UNFIT)
        host = self._runtime.identity.host
        what = "store the result of its training" if outcome == UNPUBLISHED else "run the job"
        data = {"host": host} | ({"log": list(log)} if log else {})
        because = JobEvent(f"{host} cannot {what} now: {fault}", EventLevel.WARN, data=data)
        self._persist(lambda: self._claim.give_back(outcome, because, end or AttemptEnd()))
        _log.warning("job given back: this host cannot run it now", outcome=outcome, reason=str(fault))

    def _try_again(self, watch: Supervision) -> None:
        """Put a job whose trainer died back into the queue; it goes on from its newest checkpoint."""
        ending = f"{_describe_end(watch)} in attempt {self._job.attempts} of {self._settings.max_attempts}"
        log_lines = {"log": watch.trainer.last_lines(_LOG_LINES)}
        watch.journal.pending.append(JobEvent(ending[0].upper() + ending[1:], EventLevel.WARN, data=log_lines))
        self._persist(watch.write_rest)
        outcome = "trainer silent" if watch.reason is StopReason.SILENT else "trainer died"
        self._persist(lambda: self._claim.release(outcome, watch.end))
        _log.warning("trainer lost", how=ending)

    def _fail(self, error: JobError, end: AttemptEnd) -> None:
        self._persist(lambda: self._claim.fail(error, end))
        _log.warning("job failed", code=error.code, reason=error.message)

    def _persist(self, write: Callable[[], Written]) -> Written:
        """Write, as often as the database's absence, or a collector, makes it necessary.

        A write whose commit was in doubt raises LeaseLost when it is repeated in vain, so nothing
        happens twice. A worker that must stop leaves the job to the sweepers.
        """
        while True:
            try:
                return write()
            except (BlobFreed, DatabaseUnavailable, StorageFull) as problem:
                if self._stop.requested and self._claim.may_be_lost:
                    raise
                _log.warning("write repeated", reason=str(problem))
                time.sleep(_RETRY_S)


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
