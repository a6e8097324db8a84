"""Runs queued jobs: claims one, lets a trainer train it, and gives the job the ending it earned.

Exceptions end here: what goes wrong with a job becomes the job's error, and a lost lease ends the
attempt without a word, because the job is another worker's by then.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from core.base_models.registry import Registry, folder_of, read_imported
from core.errors import BlobFreed, DatabaseUnavailable, ServiceError, StorageFull, WorkerLost
from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredAdapter
from core.jobs.events import EventLevel, JobEvent
from core.jobs.spec import FileRef, JobSpec, model_name
from core.store import leases
from core.store.blobs import said_of
from core.store.leases import Lease, LeaseLost
from core.store.tables import JobRecord
from worker.jobs.blob_transfer import fetch_adapter, store_adapter, store_results
from worker.jobs.claim import Claim
from worker.jobs.prefetch import prefetch_in_background
from worker.jobs.run_folders import drop_large_files, earlier_checkpoints, make_run_folder
from worker.jobs.runtime import WorkerRuntime
from worker.jobs.slot import WorkerSlot
from worker.jobs.supervision import StopReason, Supervision
from worker.trainer_process.messages import Failed, Finished
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.run_folder import (
    ADAPTER,
    CONTINUE_FROM,
    EXIT_DONE,
    RESULTS,
    TRAINING_FILE,
    VALIDATION_FILE,
    RunSpec,
    write_spec,
)
from worker.trainer_process.stop import StopFlag

_RETRY_S: Final = 0.5
_LOG_LINES: Final = 12
_LINES_NAMED: Final = 20

Written = TypeVar("Written")

_log = structlog.stdlib.get_logger(__name__)


def run_queued(runtime: WorkerRuntime, slot: WorkerSlot, stop: StopFlag) -> None:
    """Run jobs until none is queued; return at once when this worker is already at it."""
    with slot.take() as free:
        while free and not stop.requested:
            if not run_next(runtime, stop):
                return


def run_next(runtime: WorkerRuntime, stop: StopFlag) -> bool:
    """Run the oldest queued job to its end or release, and tell whether there was one."""
    try:
        with runtime.database.write() as session:
            job = leases.claim(session, runtime.identity, runtime.settings.base_models, int(time.time()))
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
        lease = Lease(job.id, job.token)
        self._claim = Claim(runtime.database, runtime.blobs, lease, lease_ttl_s=runtime.settings.lease_ttl_s)

    def run(self) -> None:
        """Train and end the attempt; whatever becomes of the job, nothing is raised."""
        try:
            self._train_or_fail()
        except LeaseLost:
            _log.warning("job left alone: the lease was lost, or the job has ended")
        except (BlobFreed, DatabaseUnavailable, StorageFull) as problem:
            _log.warning("job left to the sweepers", reason=str(problem))

    def _train_or_fail(self) -> None:
        try:
            self._train()
        except (LeaseLost, BlobFreed, DatabaseUnavailable):
            raise
        except ServiceError as problem:
            self._fail(JobError(problem.code, str(problem), problem.param), AttemptEnd())
        except Exception:
            # The one broad catch: a mistake of ours must end the job, not the worker.
            _log.exception("mistake in the worker")
            self._fail(JobError("internal_error", "the worker made a mistake; its log tells more"), AttemptEnd())

    def _train(self) -> None:
        spec = JobSpec.model_validate(self._job.spec)
        model = model_name(spec.base_model, self._settings.organization, self._job.suffix, self._job.id)
        folder = make_run_folder(self._settings.runs_folder, self._job.id, self._job.token)
        self._fill(folder, spec, model)
        command = self._runtime.trainer_command
        with TrainerProcess(folder, niceness=self._settings.trainer_niceness, command=command) as trainer:
            watch = Supervision(trainer, self._claim, self._runtime.blobs, self._settings, self._stop, model)
            watch.run()
        self._conclude(watch, folder)

    def _fill(self, folder: Path, spec: JobSpec, model: str) -> None:
        """Put everything into the attempt's folder that the trainer will read.

        Raises:
            BaseModelInvalid: the base model is not imported on this machine.
            BlobNotFound: a file, or the adapter to go on from, is no longer stored.
            BlobDamaged: it is stored, but its bytes have changed.
            AdapterInvalid: the adapter to go on from has a malformed manifest.
        """
        base_models = self._settings.base_models_folder
        entry = Registry.load(base_models).get(spec.base_model)
        base_model_folder = folder_of(base_models, spec.base_model)
        imported = read_imported(base_model_folder)
        self._fetch_file(spec.training_file, "training file", folder / TRAINING_FILE)
        if spec.validation_file is not None:
            self._fetch_file(spec.validation_file, "validation file", folder / VALIDATION_FILE)
        if spec.continue_from is not None:
            with said_of(f"the adapter {spec.continue_from.name} to go on from"):
                fetch_adapter(self._runtime.blobs, spec.continue_from.adapter_sha256, folder / CONTINUE_FROM)
        write_spec(
            folder,
            RunSpec(
                job_id=self._job.id,
                token=self._job.token,
                job=spec,
                base_model_folder=str(base_model_folder),
                base_model_fingerprint=imported.fingerprint,
                base_model_dtype=entry.dtype,
                training_file=TRAINING_FILE,
                validation_file=None if spec.validation_file is None else VALIDATION_FILE,
                resume_from=earlier_checkpoints(folder),
                adapter_name=model,
            ),
        )

    def _fetch_file(self, file: FileRef, role: str, target: Path) -> None:
        with said_of(f"{role} {file.id}"):
            self._runtime.blobs.fetch(file.sha256, target)

    def _conclude(self, watch: Supervision, folder: Path) -> None:
        """Give the attempt the one ending that fits how its trainer ended."""
        self._persist(watch.write_rest)
        journal = watch.journal
        if watch.reason is StopReason.CANCELLED:
            self._persist(lambda: self._claim.cancel(watch.end))
            _log.info("job cancelled")
        elif watch.trainer.exit_code == EXIT_DONE and journal.finished is not None:
            self._publish(journal.finished, watch.model, folder)
        elif journal.failed is not None:
            param = "training_file" if journal.failed.lines else None
            self._fail(JobError(journal.failed.code, _with_lines(journal.failed), param), watch.end)
        elif watch.reason in (StopReason.PAUSED, StopReason.WORKER_STOPS, StopReason.LEASE_IN_DOUBT):
            outcome = leases.PAUSED if watch.reason is StopReason.PAUSED else leases.RELEASED
            self._persist(lambda: self._claim.release(outcome, watch.end))
            _log.info("job released", why=outcome, last_step=journal.last_step)
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

    def _publish(self, finished: Finished, model: str, folder: Path) -> None:
        result = {
            "steps": finished.steps,
            "adapter_step": finished.adapter_step,
            "metrics": finished.metrics,
            "measured": finished.measured.model_dump(mode="json"),
        }

        def publish() -> StoredAdapter:
            # stored anew with each try: what nothing refers to yet may have been freed in between
            adapter = store_adapter(self._runtime.blobs, folder / ADAPTER)
            results = store_results(self._runtime.blobs, folder / RESULTS)
            publication = Publication(adapter, model, finished.trained_on, finished.trained_tokens, result)
            self._claim.publish(publication, results, AttemptEnd(last_step=finished.steps))
            return adapter

        adapter = self._persist(publish)
        _log.info("job succeeded", model=model, steps=finished.steps)
        base_model = JobSpec.model_validate(self._job.spec).base_model
        prefetch_in_background(self._settings.engine_urls, base_model, adapter.sha256)

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
