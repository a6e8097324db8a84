"""A job's events: appended with a number of their own, read newest first.

Which events a job has is decided by those who append; an ended job takes no more of them, and may lose its oldest to
`core.store.retention.expiry`.
"""

from collections.abc import Sequence

from sqlalchemy import select, update

from core.errors import InvalidParameter, JobNotFound
from core.ids import new_id
from core.jobs.events import JobEvent
from core.jobs.status import TERMINAL
from core.store.db import Session
from core.store.tables import EventRecord, JobRecord


def append(session: Session, job_id: str, event: JobEvent, now: int) -> EventRecord:
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
    return insert(session, job_id, seq, event, now)


def insert(session: Session, job_id: str, seq: int, event: JobEvent, now: int) -> EventRecord:
    """Insert an event whose number the caller has just taken from the job's ``event_seq``."""
    record = EventRecord(
        id=new_id("ftevent-"),
        job_id=job_id,
        seq=seq,
        level=event.level,
        type=event.type,
        message=event.message,
        data=event.data,
        created_at=now,
    )
    session.add(record)
    session.flush()
    return record


def list_page(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[Sequence[EventRecord], bool]:
    """List events newest first, and tell whether there are older ones.

    Args:
        after: id of the last event already seen, which need not be there any more where older ones are not either;
            None starts with the newest.

    Raises:
        InvalidParameter: ``after`` is no event of this job.
    """
    query = select(EventRecord).where(EventRecord.job_id == job_id)
    if after is not None:
        seen_seq = session.scalar(select(EventRecord.seq).where(EventRecord.job_id == job_id, EventRecord.id == after))
        if seen_seq is None and _have_left(session, job_id):
            return (), False  # events leave oldest first: where that one did, so did all before it
        if seen_seq is None:
            raise InvalidParameter("after", f"{after} is no event of {job_id}")
        query = query.where(EventRecord.seq < seen_seq)
    rows = session.scalars(query.order_by(EventRecord.seq.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _have_left(session: Session, job_id: str) -> bool:
    oldest = select(EventRecord.seq).where(EventRecord.job_id == job_id).order_by(EventRecord.seq).limit(1)
    return (session.scalar(oldest) or 1) > 1
