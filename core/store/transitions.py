"""The one place that writes a job's status, and the event that tells of it.

Who may move a job, and why, is decided by `core.store.steering` and `core.store.leases`.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, update

from core.jobs.events import EventLevel, EventType
from core.jobs.spec import TERMINAL, JobStatus, statuses_before
from core.store import events
from core.store.db import Session
from core.store.tables import JobRecord


@dataclass(frozen=True)
class Told:
    """What a move's event says."""

    level: EventLevel
    message: str
    data: dict[str, Any] | None = None


def move(
    session: Session,
    job_id: str,
    to: JobStatus,
    told: Told,
    now: int,
    *guard: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Give the job another status if transitions and guard allow it, with its event; tell whether it did.

    One statement, so of two concurrent moves exactly one happens.
    """
    if to in TERMINAL:
        values["finished_at"] = now
    seq = session.scalar(
        update(JobRecord)
        .where(JobRecord.id == job_id, JobRecord.status.in_(statuses_before(to)), *guard)
        .values(status=to, event_seq=JobRecord.event_seq + 1, **values)
        .returning(JobRecord.event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        return False
    events.add(
        session,
        job_id,
        seq,
        level=told.level,
        type=EventType.MESSAGE,
        message=told.message,
        data=told.data,
        now=now,
    )
    return True
