"""A job's statuses, and which may follow which. Knows no database: ``core.store.queue.transitions`` writes them."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """OpenAI's names, and ``paused``. Files are checked while they are uploaded, so a job starts as queued."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED, JobStatus.CANCELLED}),
    # back to queued: released by a worker that shuts down, or taken from one that died
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


TERMINAL = frozenset(status for status, allowed in NEXT.items() if not allowed)


def statuses_before(to: JobStatus) -> frozenset[JobStatus]:
    """Give the statuses from which a job may become ``to``."""
    return frozenset(status for status, allowed in NEXT.items() if to in allowed)
