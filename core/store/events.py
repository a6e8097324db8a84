"""A job's events: appended with a number of their own, read forwards and backwards.

Which events a job has is decided by those who append; an ended job takes no more of them.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from core.errors import InvalidParameter, JobNotFound
from core.ids import new_id
from core.jobs.events import EventLevel, EventType
from core.jobs.spec import TERMINAL
from core.store.db import Session
from core.store.tables import EventRecord, JobRecord


def append(
    session: Session,
    job_id: str,
    *,
    level: EventLevel,
    type: EventType,
    message: str,
    data: dict[str, Any] | None = None,
    now: int,
) -> EventRecord:
    """Add an event to a job that has not ended.

    Its number is taken from the job's row in the caller's transaction, so numbers have no gaps
    and no duplicates. A worker calls `leases.heartbeat` or `leases.hold` first in the same
    transaction; else it could speak for a job it has lost.

    Raises:
        JobNotFound: there is no such job that goes on.
    """
    seq = session.scalar(
        update(JobRecord)
        .where(JobRecord.id == job_id, JobRecord.status.not_in(TERMINAL))
        .values(event_seq=JobRecord.event_seq + 1)
        .returning(JobRecord.event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        raise JobNotFound(job_id)
    return add(session, job_id, seq, level=level, type=type, message=message, data=data, now=now)


def add(
    session: Session,
    job_id: str,
    seq: int,
    *,
    level: EventLevel,
    type: EventType,
    message: str,
    data: dict[str, Any] | None = None,
    now: int,
) -> EventRecord:
    """Insert an event whose number the caller has just taken from the job's ``event_seq``."""
    event = EventRecord(
        id=new_id("ftevent-"),
        job_id=job_id,
        seq=seq,
        level=level,
        type=type,
        message=message,
        data=data,
        created_at=now,
    )
    session.add(event)
    session.flush()
    return event


def list_page(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[Sequence[EventRecord], bool]:
    """List events newest first, and tell whether there are older ones.

    Args:
        after: id of the last event already seen; None starts with the newest.

    Raises:
        InvalidParameter: ``after`` is no event of this job.
    """
    query = select(EventRecord).where(EventRecord.job_id == job_id)
    if after is not None:
        seen = session.scalar(select(EventRecord.seq).where(EventRecord.job_id == job_id, EventRecord.id == after))
        if seen is None:
            raise InvalidParameter("after", f"{after} is no event of {job_id}")
        query = query.where(EventRecord.seq < seen)
    rows = session.scalars(query.order_by(EventRecord.seq.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def list_after(session: Session, job_id: str, seq: int, limit: int) -> Sequence[EventRecord]:
    """List the events numbered over ``seq``, oldest first."""
    return session.scalars(
        select(EventRecord)
        .where(EventRecord.job_id == job_id, EventRecord.seq > seq)
        .order_by(EventRecord.seq)
        .limit(limit)
    ).all()
