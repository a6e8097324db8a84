"""Job control: jobs are cancelled, paused and resumed on a person's request.

A job that no worker has obeys at once. Where one has it, the requested action stands beside the status until
the worker reads it with a heartbeat; what it then does is `core.store.queue.leases`' matter. ``now`` is only recorded.
"""

from enum import Enum, auto
from typing import Final

from sqlalchemy import func, select

from core.errors import EvaluationNotFound, ExportNotFound, JobHasEnded, JobNotFound
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.status import TERMINAL, JobStatus
from core.store.db import Session
from core.store.queue.transitions import move
from core.store.tables import CheckpointRecord, JobRecord


class RequestedAction(Enum):
    """What is asked of a job that runs."""

    CANCEL = auto()
    PAUSE = auto()


NOT_FOUND: Final = {
    JobKind.FINE_TUNING: JobNotFound,
    JobKind.EVALUATION: EvaluationNotFound,
    JobKind.EXPORT: ExportNotFound,
}
REQUEST_COLUMNS: Final = (JobRecord.cancel_requested_at, JobRecord.pause_requested_at)


def requested_action(cancel_requested_at: int | None, pause_requested_at: int | None) -> RequestedAction | None:
    """Read the requested action from `REQUEST_COLUMNS`; a cancellation outweighs a pause."""
    if cancel_requested_at is not None:
        return RequestedAction.CANCEL
    return None if pause_requested_at is None else RequestedAction.PAUSE


def is_pausing(job: JobRecord) -> bool:
    """Tell whether the job still runs and is paused as soon as its worker has stopped it."""
    action = requested_action(job.cancel_requested_at, job.pause_requested_at)
    return job.status is JobStatus.RUNNING and action is RequestedAction.PAUSE


def cancel(session: Session, job_id: str, now: int, kind: JobKind = JobKind.FINE_TUNING) -> JobRecord:
    """Cancel a queued or paused job at once, ask for it where the job runs, and leave an ended one as it is.

    Raises:
        JobNotFound, EvaluationNotFound, ExportNotFound: there is none of this kind.
    """
    job = _lock(session, job_id, kind)
    if job.status is JobStatus.QUEUED or job.status is JobStatus.PAUSED:
        when = "before it started" if job.status is JobStatus.QUEUED else "while it was paused"
        event = JobEvent(f"The job was cancelled {when}")
        return _moved(session, job_id, JobStatus.CANCELLED, event, now, cancel_requested_at=now)
    if job.status is JobStatus.RUNNING and job.cancel_requested_at is None:
        job.cancel_requested_at = now
        session.flush()
    return job


def pause(session: Session, job_id: str, now: int) -> JobRecord:
    """Pause a queued training at once, ask for it where it runs, and leave a paused one as it is.

    Raises:
        JobNotFound: there is none.
        JobHasEnded: nothing of it is left to pause.
    """
    job = _lock(session, job_id)
    if job.status in TERMINAL:
        raise JobHasEnded(job_id, job.status.value, "paused")
    if job.status is JobStatus.QUEUED:
        return _moved(session, job_id, JobStatus.PAUSED, pause_event(session, job_id), now, pause_requested_at=now)
    if job.pause_requested_at is None:
        job.pause_requested_at = now
        session.flush()
    return job


def resume(session: Session, job_id: str, now: int) -> JobRecord:
    """Queue a paused training again, withdraw a pause that did not take effect yet, and leave any other job as it is.

    The job has its old place in the queue, by its age. Whoever calls this notifies the workers after the commit.

    Raises:
        JobNotFound: there is none.
        JobHasEnded: nothing of it is left to resume.
    """
    job = _lock(session, job_id)
    if job.status in TERMINAL:
        raise JobHasEnded(job_id, job.status.value, "resumed")
    if job.status is JobStatus.PAUSED:
        event = _event_with_step(session, job_id, "The job was resumed")
        return _moved(session, job_id, JobStatus.QUEUED, event, now, pause_requested_at=None, notified_at=None)
    if job.pause_requested_at is not None:
        job.pause_requested_at = None
        session.flush()
    return job


def pause_event(session: Session, job_id: str, because: str | None = None) -> JobEvent:
    """Make the event which says that the job is paused now, and how far it has come."""
    message = "The job was paused" if because is None else f"The job was paused; {because}"
    return _event_with_step(session, job_id, message)


def _event_with_step(session: Session, job_id: str, message: str) -> JobEvent:
    step = session.scalar(select(func.max(CheckpointRecord.step)).where(CheckpointRecord.job_id == job_id))
    if step is None:
        return JobEvent(f"{message}; it has no checkpoint yet", data={"step": 0})
    return JobEvent(f"{message}; its newest checkpoint is of step {step}", data={"step": step})


def _lock(session: Session, job_id: str, kind: JobKind = JobKind.FINE_TUNING) -> JobRecord:
    """Give the job's row, whose status then stays as it is to the end of the transaction."""
    job = session.scalar(
        select(JobRecord)
        .where(JobRecord.id == job_id, JobRecord.kind == kind)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise NOT_FOUND[kind](job_id)
    return job


def _moved(session: Session, job_id: str, to: JobStatus, event: JobEvent, now: int, **values: int | None) -> JobRecord:
    moved = move(session, job_id, to, event, now, **values)
    assert moved, "the row is locked, so its status is the one that was read"
    return session.get_one(JobRecord, job_id, populate_existing=True)
