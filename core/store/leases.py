"""Leases on jobs: claimed, renewed, ended by their worker, or taken from one that fell silent.

A lease has a token that grows with each claim; what a worker writes names its token and changes
nothing once the job was given to another. No clock takes part: a heartbeat is a counter, and who
watches it decides by a clock of its own how long it may stand still. ``now`` is only recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, update

from core.errors import WorkerLost
from core.ids import new_id
from core.jobs.events import EventLevel
from core.jobs.spec import JobStatus
from core.store.db import Session
from core.store.steering import WISHES, Wish, told_of_pause, wish_of
from core.store.tables import AdapterRecord, AdapterState, AttemptRecord, JobRecord
from core.store.transitions import Told, move

RELEASED = "released"  # the attempt's outcome when its worker shut down: it does not count
PAUSED = "paused"  # the attempt's outcome when it was stopped for a pause: it does not count either
LOST = "lost"  # the attempt's outcome when its worker fell silent

_WAITS_AGAIN: Final = {
    RELEASED: "The worker was stopped; the job waits for the next one",
    PAUSED: "The pause was withdrawn; the job waits for its next turn",
}


class LeaseLost(Exception):
    """The job is no longer this worker's: nothing was written, and its work must stop quietly."""


@dataclass(frozen=True)
class Lease:
    """A running job as its watcher saw it; ``token`` and ``hb_seq`` stand still when its worker is gone."""

    job_id: str
    token: int
    hb_seq: int
    attempts: int
    cancel_requested: bool


def claim(
    session: Session, *, owner: str, host: str, pid: int, base_models: Sequence[str], now: int
) -> JobRecord | None:
    """Take the oldest queued job of these base models; None when there is none.

    Of any number of callers at once exactly one gets a job.

    Args:
        owner: names this worker process and none before or after it; never host or pid alone.
    """
    oldest = (
        select(JobRecord.id)
        .where(JobRecord.status == JobStatus.QUEUED, JobRecord.base_model.in_(base_models))
        .order_by(JobRecord.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    job = session.scalar(
        update(JobRecord)
        .where(JobRecord.id == oldest, JobRecord.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            token=JobRecord.token + 1,
            attempts=JobRecord.attempts + 1,
            hb_seq=JobRecord.hb_seq + 1,
            owner=owner,
            started_at=func.coalesce(JobRecord.started_at, now),
        )
        .returning(JobRecord)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if job is None:
        return None
    session.add(AttemptRecord(job_id=job.id, token=job.token, owner=owner, host=host, pid=pid, started_at=now))
    session.flush()
    return job


def heartbeat(session: Session, job_id: str, token: int, progress: dict[str, Any] | None) -> Wish | None:
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
        .where(JobRecord.id == job_id, *_held_by(token))
        .values(values)
        .returning(*WISHES)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LeaseLost(job_id, token)
    return wish_of(*row)


def hold(session: Session, job_id: str, token: int) -> Wish | None:
    """Make sure that the lease stays this worker's to the end of the transaction.

    Returns:
        What is asked of the job, which stays so as long.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    row = session.execute(
        select(*WISHES).where(JobRecord.id == job_id, *_held_by(token)).with_for_update()
    ).one_or_none()
    if row is None:
        raise LeaseLost(job_id, token)
    return wish_of(*row)


def record_resume(session: Session, job_id: str, token: int, step: int) -> None:
    """Note the step from which this attempt goes on.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    hold(session, job_id, token)
    session.execute(
        update(AttemptRecord)
        .where(AttemptRecord.job_id == job_id, AttemptRecord.token == token)
        .values(resumed_from_step=step)
        .execution_options(synchronize_session=False)
    )


def release(
    session: Session,
    job_id: str,
    token: int,
    *,
    outcome: str,
    exit_signal: int | None = None,
    last_step: int | None = None,
    now: int,
) -> JobStatus:
    """Give the job back to the queue, or have it paused or cancelled where that was asked for.

    Args:
        outcome: how the attempt ended; with `RELEASED` or `PAUSED` it does not count against the job.

    Returns:
        The job's new status.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    wish = hold(session, job_id, token)
    if wish is Wish.CANCEL:
        to, told = JobStatus.CANCELLED, Told(EventLevel.INFO, "The job was cancelled")
    elif wish is Wish.PAUSE:
        to, told = JobStatus.PAUSED, told_of_pause(session, job_id)
    else:
        message = _WAITS_AGAIN.get(outcome, "The job waits for its next attempt")
        to, told = JobStatus.QUEUED, Told(EventLevel.INFO, message)
    uncounted = 1 if outcome in (RELEASED, PAUSED) else 0
    values = {"attempts": JobRecord.attempts - uncounted, "rung_at": None, "owner": None}
    _move_held(session, job_id, token, to, told, now, **values)
    _end_attempt(session, job_id, token, outcome, now, exit_signal, last_step)
    return to


def finish(
    session: Session,
    job_id: str,
    token: int,
    *,
    status: JobStatus,
    error: tuple[str, str, str | None] | None = None,
    exit_signal: int | None = None,
    last_step: int | None = None,
    now: int,
) -> None:
    """End the job as failed or cancelled, with its last event; success is `publish`.

    Args:
        error: code, message, and the request field at fault or None; given exactly when it failed.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    assert status in (JobStatus.FAILED, JobStatus.CANCELLED)
    assert (error is None) == (status is JobStatus.CANCELLED)
    if error is None:
        _move_held(session, job_id, token, status, Told(EventLevel.INFO, "The job was cancelled"), now)
    else:
        told, values = _failure(error)
        _move_held(session, job_id, token, status, told, now, **values)
    _end_attempt(session, job_id, token, status.value, now, exit_signal, last_step)


def publish(
    session: Session,
    job_id: str,
    token: int,
    *,
    adapter_sha256: str,
    bytes: int,
    name: str,
    trained_on: str,
    trained_tokens: int,
    result: dict[str, Any],
    last_step: int | None = None,
    now: int,
) -> None:
    """End the job as succeeded: status, adapter and last event, in the caller's one transaction.

    A cancellation that was asked for but not yet carried out comes too late. When the commit's
    outcome is unknown, read the job again: succeeded under this token means that it happened.

    Args:
        adapter_sha256: digest of the adapter's manifest, whose blobs are all stored by now.
        bytes: size of the adapter's files together.
        name: the model name it is served under.
        trained_on: what the adapter learnt from, in a sentence.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    _move_held(
        session,
        job_id,
        token,
        JobStatus.SUCCEEDED,
        Told(EventLevel.INFO, f"The job has successfully completed. It trained on {trained_on}"),
        now,
        fine_tuned_model=name,
        trained_on=trained_on,
        trained_tokens=trained_tokens,
        result=result,
    )
    base_model = session.scalars(select(JobRecord.base_model).where(JobRecord.id == job_id)).one()
    session.add(
        AdapterRecord(
            id=new_id("adapter-"),
            job_id=job_id,
            token=token,
            name=name,
            base_model=base_model,
            adapter_sha256=adapter_sha256,
            bytes=bytes,
            state=AdapterState.LIVE,
            created_at=now,
        )
    )
    _end_attempt(session, job_id, token, JobStatus.SUCCEEDED.value, now, None, last_step)


def leases(session: Session) -> list[Lease]:
    """List the leases of all running jobs."""
    rows = session.execute(
        select(
            JobRecord.id, JobRecord.token, JobRecord.hb_seq, JobRecord.attempts, JobRecord.cancel_requested_at
        ).where(JobRecord.status == JobStatus.RUNNING)
    )
    return [Lease(id, token, hb_seq, attempts, cancel is not None) for id, token, hb_seq, attempts, cancel in rows]


def reclaim(session: Session, lease: Lease, *, max_attempts: int, now: int) -> JobStatus | None:
    """Take a job from a worker that fell silent.

    Returns:
        The job's new status: cancelled where that was asked for, failed where attempts are used
        up, paused where that was asked for, else queued. None when the lease had moved on since
        it was seen; nothing was written.
    """
    seen = (*_held_by(lease.token), JobRecord.hb_seq == lease.hb_seq)
    row = session.execute(
        select(JobRecord.attempts, *WISHES).where(JobRecord.id == lease.job_id, *seen).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    attempts, *wishes = row
    wish = wish_of(*wishes)
    values: dict[str, Any] = {}
    if wish is Wish.CANCEL:
        to = JobStatus.CANCELLED
        told = Told(EventLevel.INFO, "The job was cancelled; its worker had stopped answering")
    elif attempts >= max_attempts:
        to = JobStatus.FAILED
        message = f"the worker died or stopped answering in each of {attempts} attempts"
        told, values = _failure((WorkerLost.code, message, None))
    elif wish is Wish.PAUSE:
        to, told = JobStatus.PAUSED, told_of_pause(session, lease.job_id, because="its worker had stopped answering")
        values = {"owner": None}
    else:
        to = JobStatus.QUEUED
        told = Told(EventLevel.WARN, "The worker stopped answering; the job waits for its next attempt")
        values = {"rung_at": None, "owner": None}
    moved = move(session, lease.job_id, to, told, now, *seen, **values)
    assert moved, "the row is locked, so the lease cannot have moved on"
    _end_attempt(session, lease.job_id, lease.token, LOST, now, None, None)
    return to


def _held_by(token: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return JobRecord.token == token, JobRecord.status == JobStatus.RUNNING


def _failure(error: tuple[str, str, str | None]) -> tuple[Told, dict[str, Any]]:
    code, message, param = error
    told = Told(EventLevel.ERROR, f"The job failed: {message}")
    return told, {"error_code": code, "error_message": message, "error_param": param}


def _move_held(session: Session, job_id: str, token: int, to: JobStatus, told: Told, now: int, **values: Any) -> None:
    if not move(session, job_id, to, told, now, *_held_by(token), **values):
        raise LeaseLost(job_id, token)


def _end_attempt(
    session: Session,
    job_id: str,
    token: int,
    outcome: str,
    now: int,
    exit_signal: int | None,
    last_step: int | None,
) -> None:
    session.execute(
        update(AttemptRecord)
        .where(AttemptRecord.job_id == job_id, AttemptRecord.token == token)
        .values(ended_at=now, outcome=outcome, exit_signal=exit_signal, last_step=last_step)
        .execution_options(synchronize_session=False)
    )
