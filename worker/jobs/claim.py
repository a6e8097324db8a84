"""A job while this process runs it: every write carries the claim's lease, so a stale one changes nothing.

The methods are short transactions; what leads to them is the attempts' matter: ``worker.jobs.attempt`` and those of
each kind. Here a worker's sentences leave for clients, so here they lose this machine's paths.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from core.errors.host_paths import without_host_paths
from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredAdapter, StoredCheckpoint
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.serving.adapter_format import FileDigest
from core.store import adapters, events, exports, files, jobs
from core.store.blobs import BlobStore
from core.store.db import Database, Session
from core.store.jobs import NewJob
from core.store.queue import leases
from core.store.queue.control import RequestedAction
from core.store.queue.leases import Lease, LeaseLost
from core.store.references.rows import hold
from worker.jobs.blob_transfer import StoredResults

# A worker gives up its trainer this much before another may take the job.
_SELF_FENCE_SHARE: Final = 0.6


class Claim:
    """One attempt's hold on its job. Each method is one transaction, and any thread may call it.

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
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.requested_action: RequestedAction | None = None  # as the last heartbeat found it
        self.lost = False  # whether a heartbeat found that the job is another worker's, or has ended
        self._database = database
        self._blobs = blobs
        self._lease = lease
        self._fence_s = _SELF_FENCE_SHARE * lease_ttl_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._confirming = threading.Lock()
        self._confirmed_s = clock()

    @property
    def may_be_lost(self) -> bool:
        """Whether the last confirmed heartbeat is so old that another worker could soon have the job."""
        return self._clock() - self._confirmed_s >= self._fence_s

    def beat(self) -> None:
        """Write a heartbeat and nothing else; learn what is asked of the job."""
        began_s = self._clock()
        try:
            with self._database.write() as session:
                self.requested_action = leases.heartbeat(session, self._lease, None)
        except LeaseLost:
            self.lost = True
            raise
        self._confirm(began_s)

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
                events.append(session, self._lease.job_id, _told(event), self._now())
            self._hold(session, *(checkpoint.adapter for checkpoint in checkpoints))
            for checkpoint in checkpoints:
                adapters.add_checkpoint(session, self._lease, checkpoint, self._now())
        self._confirm(began_s)

    def write(self, change: Callable[[Session], None], progress: dict[str, Any] | None = None) -> None:
        """Write a heartbeat with progress and a change of the job's own rows; learn what is asked of the job."""
        began_s = self._clock()
        with self._database.write() as session:
            self.requested_action = leases.heartbeat(session, self._lease, progress)
            change(session)
        self._confirm(began_s)

    def conclude(self, event: JobEvent, result: dict[str, Any], scores: StoredResults, end: AttemptEnd) -> None:
        """End an evaluation as succeeded: its result, scores file, last event and status become visible together.

        Raises:
            BlobFreed: the file's bytes are no longer stored, so nothing was written; store them again.
        """
        with self._database.write() as session:
            self._hold(session, others=(scores.blob.sha256,))
            file = files.create_results(
                session,
                self._lease.job_id,
                scores.blob,
                scores.columns,
                self._now(),
                filename=files.SCORES_FILENAME,
            )
            result = {**result, "result_files": [file.id]}
            leases.conclude(session, self._lease, event, result, end, self._now())

    def deliver(self, event: JobEvent, result: dict[str, Any], made: Mapping[str, FileDigest], end: AttemptEnd) -> None:
        """End an export as succeeded: its files, result, last event and status become visible together.

        Raises:
            BlobFreed: some of the bytes are no longer stored, so nothing was written; store them again.
        """
        with self._database.write() as session:
            self._hold(session, others=tuple(file.sha256 for file in made.values()))
            exports.add_files(session, self._lease.job_id, made)
            leases.conclude(session, self._lease, event, result, end, self._now())

    def publish(
        self,
        publication: Publication,
        results: StoredResults,
        end: AttemptEnd,
        follow_up: NewJob | None = None,
        told: JobEvent | None = None,
    ) -> None:
        """End the job as succeeded: its adapter, result file, last event and status become visible together.

        Args:
            follow_up: an evaluation of the adapter, that is queued with it.
            told: an event before the last one.

        Raises:
            BlobFreed: some of the bytes are no longer stored, so nothing was written; store them again.
        """
        with self._database.write() as session:
            self._hold(session, publication.adapter, others=(results.blob.sha256,))
            file = files.create_results(session, self._lease.job_id, results.blob, results.columns, self._now())
            result = {**publication.result, "result_files": [file.id]}
            evaluation_id = None if follow_up is None else jobs.new_job_id(JobKind.EVALUATION)
            if evaluation_id is not None:
                result["evaluation_id"] = evaluation_id
            if told is not None:
                leases.hold(session, self._lease)
                events.append(session, self._lease.job_id, _told(told), self._now())
            leases.publish(session, self._lease, replace(publication, result=result), end, self._now())
            if follow_up is not None:
                jobs.create(session, follow_up, self._now(), job_id=evaluation_id)

    def cancel(self, end: AttemptEnd) -> None:
        """End the job as cancelled."""
        with self._database.write() as session:
            leases.cancel(session, self._lease, end, self._now())

    def fail(self, error: JobError, end: AttemptEnd) -> None:
        """End the job as failed."""
        with self._database.write() as session:
            told = replace(error, message=without_host_paths(error.message))
            leases.fail(session, self._lease, told, end, self._now())

    def release(self, outcome: str, end: AttemptEnd) -> None:
        """Put the job back into the queue, or have it paused or cancelled where that is asked for by now.

        With the outcomes `leases.RELEASED` and `leases.PAUSED` the attempt does not count.
        """
        with self._database.write() as session:
            leases.release(session, self._lease, outcome, end, self._now())

    def give_back(self, outcome: str, because: JobEvent, end: AttemptEnd) -> None:
        """Put the job back into the queue as one that this host cannot run now, uncounted; or as `release` does.

        ``outcome`` is one of `unfit_hosts.OUTCOMES`.
        """
        with self._database.write() as session:
            leases.release(session, self._lease, outcome, end, self._now(), _told(because))

    def _confirm(self, began_s: float) -> None:
        with self._confirming:  # of two threads the one that began earlier may be done later
            self._confirmed_s = max(self._confirmed_s, began_s)

    def _hold(self, session: Session, *adapters: StoredAdapter, others: tuple[str, ...] = ()) -> None:
        digests = [digest for adapter in adapters for digest in (adapter.sha256, *adapter.parts)]
        hold(session, self._blobs.exists, [*digests, *others])

    def _now(self) -> int:
        return int(self._wall_clock())


def _told(event: JobEvent) -> JobEvent:
    """Give the event as clients see it. Of its data only a log can name paths of ours."""
    data = event.data
    if data is not None and "log" in data:
        data = data | {"log": [without_host_paths(line) for line in data["log"]]}
    return replace(event, message=without_host_paths(event.message), data=data)
