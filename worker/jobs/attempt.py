"""One attempt at one job, from its claim to the write that ends it; what the work is, the job's kind says.

Exceptions end here: what goes wrong with a job becomes the job's error, what goes wrong with this host gives the
job back, and a lost lease ends the attempt without a word, because the job is another worker's by then.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import structlog

from core.errors import BlobFreed, DatabaseUnavailable, HostUnfit, HostUnsuited, ServiceError, StorageFull
from core.jobs.attempt import AttemptEnd, JobError
from core.jobs.events import EventLevel, JobEvent
from core.store.queue.leases import Lease, LeaseLost
from core.store.queue.unfit_hosts import UNFIT, UNSUITED
from core.store.tables import JobRecord
from worker.jobs.claim import Claim
from worker.jobs.heartbeat import LeaseHeartbeat
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag

_RETRY_S: Final = 0.5

Written = TypeVar("Written")

_log = structlog.stdlib.get_logger(__name__)


class Attempt(ABC):
    """One attempt at one job."""

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

    def run(self) -> None:
        """Do the job's work and end the attempt; whatever becomes of the job, nothing is raised."""
        try:
            with self._heartbeat:
                self._carry_out_or_fail()
        except LeaseLost:
            _log.warning("job left alone: the lease was lost, or the job has ended")
        except (BlobFreed, DatabaseUnavailable, StorageFull) as problem:
            _log.warning("job left to the sweepers", reason=str(problem))

    @abstractmethod
    def _carry_out(self) -> None:
        """Do the job's work and write how it ended.

        Raises:
            HostUnfit: this host cannot, now; the job goes back to the queue.
            ServiceError: the job cannot; it fails.
            LeaseLost, BlobFreed, DatabaseUnavailable: the job is left alone.
        """

    def _carry_out_or_fail(self) -> None:
        try:
            self._carry_out()
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

    def _give_back(
        self,
        fault: HostUnfit,
        end: AttemptEnd | None = None,
        log: Sequence[str] = (),
        *,
        what: str = "run the job",
        outcome: str | None = None,
    ) -> None:
        """Put the job back into the queue, uncounted, because this host cannot run it now.

        Args:
            what: that the host cannot do.
            outcome: None: by the fault.
        """
        outcome = outcome or (UNSUITED if isinstance(fault, HostUnsuited) else UNFIT)
        host = self._runtime.identity.host
        data = {"host": host} | ({"log": list(log)} if log else {})
        because = JobEvent(f"{host} cannot {what} now: {fault}", EventLevel.WARN, data=data)
        self._persist(lambda: self._claim.give_back(outcome, because, end or AttemptEnd()))
        _log.warning("job given back: this host cannot run it now", outcome=outcome, reason=str(fault))

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
