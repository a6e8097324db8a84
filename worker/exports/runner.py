"""Runs exports: lets an exporter make and try what a claimed job asks for, stores it, and gives the job its ending.

Torch-free. An export that was interrupted begins again: it takes minutes, and equal bytes are stored once.
"""

import signal
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import structlog

from core.base_models.registry import folder_of
from core.errors import HostUnfit, WorkerLost
from core.exports.report import ExportReport
from core.exports.spec import ExportSpec
from core.jobs.attempt import JobError
from core.jobs.events import EventLevel, JobEvent
from core.jobs.kind import JobKind
from core.serving.adapter_format import FileDigest
from core.settings import Settings
from core.store.blobs import said_of
from core.store.queue import leases
from core.store.tables import JobRecord
from worker.jobs.attempt import Attempt
from worker.jobs.blob_transfer import fetch_adapter
from worker.jobs.duty import Duty, EveryHost
from worker.jobs.filling import require_base_model, require_pinned
from worker.jobs.run_folders import drop_exported, make_run_folder
from worker.jobs.runtime import WorkerRuntime
from worker.jobs.supervision import StopReason, Supervision
from worker.trainer_process.export_folder import COMMAND, EXPORTED_ADAPTER, RESULT, ExportRun, read_report, write_run
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.run_folder import EXIT_DONE
from worker.trainer_process.stop import StopFlag

_LOG_LINES: Final = 12

_log = structlog.stdlib.get_logger(__name__)


def exports(settings: Settings) -> Duty:
    """Give the duty to export. A host needs nothing for it but the base model, which each attempt looks for."""
    return Duty(JobKind.EXPORT, EveryHost(settings.base_models), ExportAttempt)


class ExportAttempt(Attempt):
    """One attempt at one export.

    Args:
        command: of the exporter's process.
    """

    def __init__(
        self, runtime: WorkerRuntime, job: JobRecord, stop: StopFlag, command: Sequence[str] = COMMAND
    ) -> None:
        super().__init__(runtime, job, stop)
        self._command = tuple(command)

    @cached_property
    def _spec(self) -> ExportSpec:
        return ExportSpec.model_validate(self._job.spec)

    def _carry_out(self) -> None:
        entry, imported = require_base_model(self._settings.base_models_folder, self._spec.base_model)
        require_pinned(self._spec.base_model, self._spec.base_model_fingerprint, imported)
        with host_faults("make the run folder"):
            folder = make_run_folder(self._settings.runs_folder, self._lease.job_id, self._lease.token)
        try:
            self._fill(folder, entry.license)
            with host_faults("start the exporter"):
                exporter = TrainerProcess(folder, niceness=self._settings.trainer_niceness, command=self._command)
            with exporter, self._heartbeat.guarding(exporter.kill):
                watch = Supervision(
                    exporter, self._claim, self._heartbeat, self._runtime.blobs, self._settings, self._stop, ""
                )
                watch.run()
            self._conclude(watch, folder)
        finally:
            drop_exported(folder)

    def _fill(self, folder: Path, licence: str | None) -> None:
        adapter = self._spec.adapter
        with host_faults("copy the adapter in"), said_of(f"the adapter {adapter.name}"):
            fetch_adapter(self._runtime.blobs, adapter.adapter_sha256, folder / EXPORTED_ADAPTER)
        base = folder_of(self._settings.base_models_folder, self._spec.base_model)
        with host_faults("fill the run folder"):
            write_run(folder, ExportRun(spec=self._spec, base_model_folder=str(base), license=licence))

    def _conclude(self, watch: Supervision, folder: Path) -> None:
        """Give the attempt the one ending that fits how its exporter ended."""
        self._persist(watch.write_rest)
        failed, report = watch.journal.failed, read_report(folder)
        if watch.reason is StopReason.CANCELLED:
            self._persist(lambda: self._claim.cancel(watch.end))
            _log.info("export cancelled")
        elif watch.trainer.exit_code == EXIT_DONE and report is not None:
            self._deliver(watch, folder, report)
        elif failed is not None and failed.of_host:
            self._give_back(HostUnfit(failed.message), watch.end)
        elif failed is not None:
            self._fail(JobError(failed.code, failed.message), watch.end)
        elif watch.reason in (StopReason.WORKER_STOPS, StopReason.LEASE_IN_DOUBT):
            self._persist(lambda: self._claim.release(leases.RELEASED, watch.end))
            _log.info("export released", why=watch.reason.name.lower())
        elif not watch.has_spoken:
            # it came to nothing of the job, so the job cannot be what it died of
            fault = HostUnfit(f"{_describe_end(watch)}, before it said anything")
            self._give_back(fault, watch.end, watch.trainer.last_lines(_LOG_LINES))
        else:
            self._try_again(watch)

    def _deliver(self, watch: Supervision, folder: Path, report: ExportReport) -> None:
        event = JobEvent(f"The export has successfully completed. {report.text}")

        def deliver() -> None:
            # stored anew with each try: what nothing refers to yet may have been freed in between
            with host_faults("store the result"):
                made = self._store(folder / RESULT)
            self._claim.deliver(event, report.model_dump(mode="json"), made, watch.end)

        self._persist(deliver)
        _log.info("export succeeded", format=self._spec.described)

    def _store(self, result: Path) -> dict[str, FileDigest]:
        made = {}
        for path in sorted(path for path in result.rglob("*") if path.is_file()):
            self._heartbeat.sign()
            blob = self._runtime.blobs.put_file(path)
            made[path.relative_to(result).as_posix()] = FileDigest(sha256=blob.sha256, bytes=blob.bytes)
        return made

    def _try_again(self, watch: Supervision) -> None:
        """Put an export whose exporter died back into the queue, or let it fail with the last attempt."""
        ending, lines = _describe_end(watch), watch.trainer.last_lines(_LOG_LINES)
        if self._job.attempts >= self._settings.max_attempts:
            last_words = "; its last words:\n" + "\n".join(lines) if lines else ""
            message = f"{ending} in attempt {self._job.attempts}, the last one{last_words}"
            self._fail(JobError(WorkerLost.code, message), watch.end)
            return
        told = f"{ending[0].upper()}{ending[1:]} in attempt {self._job.attempts} of {self._settings.max_attempts}"
        self._persist(lambda: self._claim.report([JobEvent(told, EventLevel.WARN, data={"log": lines})]))
        self._persist(lambda: self._claim.release("exporter died", watch.end))
        _log.warning("exporter lost", how=ending)


def _describe_end(watch: Supervision) -> str:
    if watch.reason is StopReason.SILENT:
        return f"the exporter said nothing for {watch.settings.stall_s:g} s and was killed"
    code = watch.trainer.exit_code
    assert code is not None, "it has ended"
    if code < 0:
        return f"the exporter was killed by {signal.Signals(-code).name}"
    return f"the exporter ended with exit status {code} and no result"
