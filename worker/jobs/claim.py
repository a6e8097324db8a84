"""A job while this process runs it: every write carries the claim's token, so a stale one changes nothing.

The methods are short transactions; what leads to them is ``worker.jobs.supervision`` and
``worker.jobs.runner``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.jobs.spec import JobStatus
from core.store import adapters, events, files, leases
from core.store.db import Database
from core.store.steering import Wish
from worker.jobs.journal import Event
from worker.jobs.publishing import StoredAdapter, StoredResults

# A worker gives up its trainer this much before another may take the job.
_SELF_FENCE_SHARE: Final = 0.6


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint whose adapter is in the store and whose row is yet to be written."""

    step: int
    name: str
    adapter: StoredAdapter
    metrics: dict[str, float]


@dataclass(frozen=True)
class AttemptEnd:
    """How far an attempt came, for its row. Both are None for one whose trainer did not start."""

    last_step: int | None = None
    exit_signal: int | None = None


class Claim:
    """One attempt's hold on its job. Each method is one transaction.

    Every method raises:
        LeaseLost: another worker has the job, or it has ended; nothing was written.
        DatabaseUnavailable: the database did not answer; the write may or may not have happened.
    """

    def __init__(
        self,
        database: Database,
        job_id: str,
        token: int,
        *,
        lease_ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = job_id
        self.token = token
        self.wish: Wish | None = None  # as the last heartbeat found it
        self._database = database
        self._fence_s = _SELF_FENCE_SHARE * lease_ttl_s
        self._clock = clock
        self._confirmed_s = clock()

    @property
    def may_be_lost(self) -> bool:
        """Whether the last confirmed heartbeat is so old that another worker could soon have the job."""
        return self._clock() - self._confirmed_s >= self._fence_s

    def report(
        self,
        news: Sequence[Event] = (),
        checkpoints: Sequence[StoredCheckpoint] = (),
        progress: dict[str, Any] | None = None,
        resumed_from_step: int | None = None,
    ) -> None:
        """Write a heartbeat with progress, events and checkpoints; learn what is asked of the job."""
        began_s = self._clock()  # the lease is renewed at some moment after this one
        with self._database.write() as session:
            self.wish = leases.heartbeat(session, self.job_id, self.token, progress)
            if resumed_from_step is not None:
                leases.record_resume(session, self.job_id, self.token, resumed_from_step)
            for event in news:
                events.append(
                    session,
                    self.job_id,
                    level=event.level,
                    type=event.type,
                    message=event.message,
                    data=event.data,
                    now=_now(),
                )
            for checkpoint in checkpoints:
                adapters.add_checkpoint(
                    session,
                    self.job_id,
                    self.token,
                    step=checkpoint.step,
                    name=checkpoint.name,
                    adapter_sha256=checkpoint.adapter.sha256,
                    metrics=checkpoint.metrics,
                    now=_now(),
                )
        self._confirmed_s = began_s

    def publish(
        self,
        adapter: StoredAdapter,
        results: StoredResults,
        *,
        name: str,
        trained_on: str,
        trained_tokens: int,
        result: dict[str, Any],
        last_step: int,
    ) -> None:
        """End the job as succeeded: its adapter, result file, last event and status become visible together."""
        with self._database.write() as session:
            blob = results.blob
            file = files.create_results(
                session, self.job_id, bytes=blob.bytes, sha256=blob.sha256, columns=results.columns, now=_now()
            )
            leases.publish(
                session,
                self.job_id,
                self.token,
                adapter_sha256=adapter.sha256,
                bytes=adapter.bytes,
                name=name,
                trained_on=trained_on,
                trained_tokens=trained_tokens,
                result=result | {"result_files": [file.id]},
                last_step=last_step,
                now=_now(),
            )

    def cancel(self, end: AttemptEnd) -> None:
        """End the job as cancelled."""
        self._finish(JobStatus.CANCELLED, None, end)

    def fail(self, code: str, message: str, param: str | None, end: AttemptEnd) -> None:
        """End the job as failed."""
        self._finish(JobStatus.FAILED, (code, message, param), end)

    def release(self, outcome: str, end: AttemptEnd) -> None:
        """Put the job back into the queue, or have it paused or cancelled where that is asked for by now.

        With the outcomes `leases.RELEASED` and `leases.PAUSED` the attempt does not count.
        """
        with self._database.write() as session:
            leases.release(
                session,
                self.job_id,
                self.token,
                outcome=outcome,
                exit_signal=end.exit_signal,
                last_step=end.last_step,
                now=_now(),
            )

    def _finish(self, status: JobStatus, error: tuple[str, str, str | None] | None, end: AttemptEnd) -> None:
        with self._database.write() as session:
            leases.finish(
                session,
                self.job_id,
                self.token,
                status=status,
                error=error,
                exit_signal=end.exit_signal,
                last_step=end.last_step,
                now=_now(),
            )


def _now() -> int:
    return int(time.time())
