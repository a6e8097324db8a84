"""The one place that writes a job's status, and the event that tells of it.

Who may move a job, and why, is decided by `core.store.queue.control` and `core.store.queue.leases`.
"""

from typing import Any

from sqlalchemy import ColumnElement, update

from core.jobs.events import JobEvent
from core.jobs.status import TERMINAL, JobStatus, statuses_before
from core.store import events
from core.store.db import Session
from core.store.tables import JobRecord


def move(
    session: Session,
    job_id: str,
    to: JobStatus,
    event: JobEvent | None,
    now: int,
    *guard: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Give the job another status if transitions and guard allow it, with its event; tell whether it did.

    One statement, so of two concurrent moves exactly one happens.

    Args:
        event: None where an earlier one still says all there is to say.
    """
    if event is not None:
        values["event_seq"] = JobRecord.event_seq + 1
    if to in TERMINAL:
        values["finished_at"] = now
    seq = session.scalar(
        update(JobRecord)
        .where(JobRecord.id == job_id, JobRecord.status.in_(statuses_before(to)), *guard)
        .values(status=to, **values)
        .returning(JobRecord.event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        return False
    if event is not None:
        events.insert(session, job_id, seq, event, now)
    return True
