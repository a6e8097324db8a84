"""Leases on jobs: claimed, renewed, ended by their worker, or taken from one that fell silent.

A lease has a fencing token that grows with each claim; what a worker writes names its token and changes
nothing once the job was given to another. No clock takes part: a heartbeat is a counter, and who
watches it decides by a clock of its own how long it may stand still. ``now`` is only recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, select, update

from core.errors import WorkerLost
from core.ids import new_id
from core.jobs.attempt import AttemptEnd, JobError, Publication
from core.jobs.events import EventLevel, JobEvent
from core.jobs.spec import organization_of
from core.jobs.status import JobStatus
from core.store.db import Session
from core.store.families import next_version
from core.store.queue import unfit_hosts
from core.store.queue.control import REQUEST_COLUMNS, RequestedAction, pause_event, requested_action
from core.store.queue.transitions import move
from core.store.references.rows import add_parts
from core.store.tables import AdapterRecord, AdapterState, AttemptRecord, JobRecord

RELEASED = "released"  # the attempt's outcome when its worker shut down: it does not count
PAUSED = "paused"  # the attempt's outcome when it was stopped for a pause: it does not count either
LOST = "lost"  # the attempt's outcome when its worker fell silent

_UNCOUNTED: Final = (RELEASED, PAUSED, *unfit_hosts.OUTCOMES)
_WAITS_AGAIN: Final = {
    RELEASED: "The worker was stopped; the job waits for the next one",
    PAUSED: "The pause was withdrawn; the job waits for its next turn",
}
_CANCELLED: Final = JobEvent("The job was cancelled")


class LeaseLost(Exception):
    """The job is no longer this worker's: nothing was written, and its work must stop quietly."""


@dataclass(frozen=True)
class Lease:
    """A job, and the fencing token of the claim that holds it."""

    job_id: str
    token: int


@dataclass(frozen=True)
class ObservedLease:
    """A running job's lease as its watcher saw it; both stand still when its worker is gone."""

    lease: Lease
    hb_seq: int


def heartbeat(session: Session, lease: Lease, progress: dict[str, Any] | None) -> RequestedAction | None:
    """Renew the lease and tell what is asked of the job.

    Args:
        progress: what the API shows of it; None keeps what it shows.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    values: dict[str, Any] = {"hb_seq": JobRecord.hb_seq + 1}
    if progress is not None:
        values["progress"] = progress
    row = session.execute(
        update(JobRecord)
        .where(*_is_held(lease))
        .values(values)
        .returning(*REQUEST_COLUMNS)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LeaseLost(lease)
    return requested_action(*row)


def hold(session: Session, lease: Lease) -> RequestedAction | None:
    """Make sure that the lease stays this worker's to the end of the transaction.

    Returns:
        What is asked of the job, which stays so as long.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    row = session.execute(select(*REQUEST_COLUMNS).where(*_is_held(lease)).with_for_update()).one_or_none()
    if row is None:
        raise LeaseLost(lease)
    return requested_action(*row)


def record_resume(session: Session, lease: Lease, step: int) -> None:
    """Note the step from which this attempt goes on.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    hold(session, lease)
    _update_attempt(session, lease, resumed_from_step=step)


def release(
    session: Session, lease: Lease, outcome: str, end: AttemptEnd, now: int, because: JobEvent | None = None
) -> JobStatus:
    """Give the job back to the queue, or have it paused or cancelled where that was asked for.

    Args:
        outcome: how the attempt ended; with `RELEASED`, `PAUSED` or one of `unfit_hosts.OUTCOMES` it does not
            count against the job.
        because: why the host could not run the job, of these last outcomes. The event is left out where
            it was told a short while ago; why the job waits is told by its row.

    Returns:
        The job's new status.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    action = hold(session, lease)
    uncounted = 1 if outcome in _UNCOUNTED else 0
    values: dict[str, Any] = {"attempts": JobRecord.attempts - uncounted, "notified_at": None, "owner": None}
    event: JobEvent | None
    if action is RequestedAction.CANCEL:
        to, event = JobStatus.CANCELLED, _CANCELLED
    elif action is RequestedAction.PAUSE:
        to, event = JobStatus.PAUSED, pause_event(session, lease.job_id)
    elif because is not None:
        to, event = JobStatus.QUEUED, because
        values["waiting_reason"] = because.message
        if not unfit_hosts.is_news(session, lease.job_id, because.message, now):
            event = None
    else:
        to, event = JobStatus.QUEUED, JobEvent(_WAITS_AGAIN.get(outcome, "The job waits for its next attempt"))
    _move_held(session, lease, to, event, now, **values)
    if outcome in unfit_hosts.OUTCOMES:
        _update_attempt(session, lease, retry_after_s=unfit_hosts.retry_after_s(session, lease.job_id, outcome))
    _end_attempt(session, lease, outcome, end, now)
    return to


def cancel(session: Session, lease: Lease, end: AttemptEnd, now: int) -> None:
    """End the job as cancelled, with its last event.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    _move_held(session, lease, JobStatus.CANCELLED, _CANCELLED, now)
    _end_attempt(session, lease, JobStatus.CANCELLED.value, end, now)


def fail(session: Session, lease: Lease, error: JobError, end: AttemptEnd, now: int) -> None:
    """End the job as failed, with its last event.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    _move_held(session, lease, JobStatus.FAILED, _failure(error), now, **_error_columns(error))
    _end_attempt(session, lease, JobStatus.FAILED.value, end, now)


def conclude(
    session: Session, lease: Lease, event: JobEvent, result: Mapping[str, Any], end: AttemptEnd, now: int
) -> None:
    """End a job that publishes nothing as succeeded, with its last event and its result; see `publish`.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    _move_held(session, lease, JobStatus.SUCCEEDED, event, now, result=dict(result))
    _end_attempt(session, lease, JobStatus.SUCCEEDED.value, end, now)


def publish(session: Session, lease: Lease, publication: Publication, end: AttemptEnd, now: int) -> None:
    """End the job as succeeded: status, adapter and last event, in the caller's one transaction.

    A cancellation that was asked for but not yet carried out comes too late. When the commit's
    outcome is unknown, read the job again: succeeded under this token means that it happened.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    _move_held(
        session,
        lease,
        JobStatus.SUCCEEDED,
        JobEvent(f"The job has successfully completed. It trained on {publication.trained_on}"),
        now,
        fine_tuned_model=publication.name,
        trained_on=publication.trained_on,
        trained_tokens=publication.trained_tokens,
        result=dict(publication.result),
    )
    base_model, suffix = session.execute(
        select(JobRecord.base_model, JobRecord.suffix).where(JobRecord.id == lease.job_id)
    ).one()
    organization = version = None
    if suffix is not None:
        organization = organization_of(publication.name)
        version = next_version(session, organization, suffix)
    session.add(
        AdapterRecord(
            id=new_id("adapter-"),
            job_id=lease.job_id,
            token=lease.token,
            name=publication.name,
            base_model=base_model,
            adapter_sha256=publication.adapter.sha256,
            bytes=publication.adapter.bytes,
            state=AdapterState.LIVE,
            organization=organization,
            suffix=suffix,
            version=version,
            created_at=now,
        )
    )
    add_parts(session, publication.adapter.sha256, publication.adapter.parts)
    _end_attempt(session, lease, JobStatus.SUCCEEDED.value, end, now)


def list_running(session: Session) -> list[ObservedLease]:
    """List the leases of all running jobs."""
    rows = session.execute(
        select(JobRecord.id, JobRecord.token, JobRecord.hb_seq).where(JobRecord.status == JobStatus.RUNNING)
    )
    return [ObservedLease(Lease(job_id, token), hb_seq) for job_id, token, hb_seq in rows]


def reclaim(session: Session, observed: ObservedLease, *, max_attempts: int, now: int) -> JobStatus | None:
    """Take a job from a worker that fell silent.

    Returns:
        The job's new status: cancelled where that was asked for, failed where attempts are used
        up, paused where that was asked for, else queued. None when the lease had moved on since
        it was observed; nothing was written.
    """
    lease = observed.lease
    unchanged = (*_is_held(lease), JobRecord.hb_seq == observed.hb_seq)
    row = session.execute(
        select(JobRecord.attempts, *REQUEST_COLUMNS).where(*unchanged).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    attempts, *requests = row
    action = requested_action(*requests)
    values: dict[str, Any] = {}
    if action is RequestedAction.CANCEL:
        to = JobStatus.CANCELLED
        event = JobEvent("The job was cancelled; its worker had stopped answering")
    elif attempts >= max_attempts:
        to = JobStatus.FAILED
        error = JobError(WorkerLost.code, f"the worker died or stopped answering in each of {attempts} attempts")
        event, values = _failure(error), _error_columns(error)
    elif action is RequestedAction.PAUSE:
        to, event = JobStatus.PAUSED, pause_event(session, lease.job_id, because="its worker had stopped answering")
        values = {"owner": None}
    else:
        to = JobStatus.QUEUED
        event = JobEvent("The worker stopped answering; the job waits for its next attempt", EventLevel.WARN)
        values = {"notified_at": None, "owner": None}
    moved = move(session, lease.job_id, to, event, now, *unchanged, **values)
    assert moved, "the row is locked, so the lease cannot have moved on"
    _end_attempt(session, lease, LOST, AttemptEnd(), now)
    return to


def _is_held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return JobRecord.id == lease.job_id, JobRecord.token == lease.token, JobRecord.status == JobStatus.RUNNING


def _failure(error: JobError) -> JobEvent:
    return JobEvent(f"The job failed: {error.message}", EventLevel.ERROR)


def _error_columns(error: JobError) -> dict[str, Any]:
    return {"error_code": error.code, "error_message": error.message, "error_param": error.param}


def _move_held(session: Session, lease: Lease, to: JobStatus, event: JobEvent | None, now: int, **values: Any) -> None:
    if not move(session, lease.job_id, to, event, now, *_is_held(lease), **values):
        raise LeaseLost(lease)


def _end_attempt(session: Session, lease: Lease, outcome: str, end: AttemptEnd, now: int) -> None:
    _update_attempt(session, lease, ended_at=now, outcome=outcome, exit_signal=end.exit_signal, last_step=end.last_step)


def _update_attempt(session: Session, lease: Lease, **values: Any) -> None:
    session.execute(
        update(AttemptRecord)
        .where(AttemptRecord.job_id == lease.job_id, AttemptRecord.token == lease.token)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
