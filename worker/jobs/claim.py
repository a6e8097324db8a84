"""A job while this process runs it: every write carries the claim's lease, so a stale one changes nothing.

The methods are short transactions; what leads to them is ``worker.jobs.supervision`` and
``worker.jobs.runner``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredAdapter, StoredCheckpoint
from core.jobs.events import JobEvent
from core.store import adapters, events, files, leases
from core.store.blobs import BlobStore
from core.store.control import RequestedAction
from core.store.db import Database, Session
from core.store.leases import Lease
from core.store.references.rows import hold
from worker.jobs.blob_transfer import StoredResults

# A worker gives up its trainer this much before another may take the job.
_SELF_FENCE_SHARE: Final = 0.6


class Claim:
    """One attempt's hold on its job. Each method is one transaction.

    Every method raises:
        LeaseLost: another worker has the job, or it has ended; nothing was written.
        DatabaseUnavailable: the database did not answer; the write may or may not have happened.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        lease: Lease,
        *,
        lease_ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requested_action: RequestedAction | None = None  # as the last heartbeat found it
        self._database = database
        self._blobs = blobs
        self._lease = lease
        self._fence_s = _SELF_FENCE_SHARE * lease_ttl_s
        self._clock = clock
        self._confirmed_s = clock()

    @property
    def may_be_lost(self) -> bool:
        """Whether the last confirmed heartbeat is so old that another worker could soon have the job."""
        return self._clock() - self._confirmed_s >= self._fence_s

    def report(
        self,
        job_events: Sequence[JobEvent] = (),
        checkpoints: Sequence[StoredCheckpoint] = (),
        progress: dict[str, Any] | None = None,
        resumed_from_step: int | None = None,
    ) -> None:
        """Write a heartbeat with progress, events and checkpoints; learn what is asked of the job.

        Raises:
            BlobFreed: a checkpoint's bytes are no longer stored, so nothing was written; store them again.
        """
        began_s = self._clock()  # the lease is renewed at some moment after this one
        with self._database.write() as session:
            self.requested_action = leases.heartbeat(session, self._lease, progress)
            if resumed_from_step is not None:
                leases.record_resume(session, self._lease, resumed_from_step)
            for event in job_events:
                events.append(session, self._lease.job_id, event, _now())
            self._hold(session, *(checkpoint.adapter for checkpoint in checkpoints))
            for checkpoint in checkpoints:
                adapters.add_checkpoint(session, self._lease, checkpoint, _now())
        self._confirmed_s = began_s

    def publish(self, publication: Publication, results: StoredResults, end: AttemptEnd) -> None:
        """End the job as succeeded: its adapter, result file, last event and status become visible together.

        Raises:
            BlobFreed: some of the bytes are no longer stored, so nothing was written; store them again.
        """
        with self._database.write() as session:
            self._hold(session, publication.adapter, others=(results.blob.sha256,))
            file = files.create_results(session, self._lease.job_id, results.blob, results.columns, _now())
            result = {**publication.result, "result_files": [file.id]}
            leases.publish(session, self._lease, replace(publication, result=result), end, _now())

    def cancel(self, end: AttemptEnd) -> None:
        """End the job as cancelled."""
        with self._database.write() as session:
            leases.cancel(session, self._lease, end, _now())

    def fail(self, error: JobError, end: AttemptEnd) -> None:
        """End the job as failed."""
        with self._database.write() as session:
            leases.fail(session, self._lease, error, end, _now())

    def release(self, outcome: str, end: AttemptEnd) -> None:
        """Put the job back into the queue, or have it paused or cancelled where that is asked for by now.

        With the outcomes `leases.RELEASED` and `leases.PAUSED` the attempt does not count.
        """
        with self._database.write() as session:
            leases.release(session, self._lease, outcome, end, _now())

    def _hold(self, session: Session, *adapters: StoredAdapter, others: tuple[str, ...] = ()) -> None:
        digests = [digest for adapter in adapters for digest in (adapter.sha256, *adapter.parts)]
        hold(session, self._blobs.exists, [*digests, *others])


def _now() -> int:
    return int(time.time())
