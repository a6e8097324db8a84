"""The waiting lines as people see them, one for each kind of job: places, and how much work stands before the end.

Answers from a few index entries or one sum however many jobs there are. How workers take jobs from it is in
`core.store.queue.leases`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import load_only

from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store.db import Session
from core.store.tables import JobRecord


@dataclass(frozen=True)
class WaitingWork:
    """What all queued trainings together are expected to take."""

    jobs: int
    without_estimate: int
    seconds: float  # of those that have an estimate


def places(session: Session, jobs: Sequence[JobRecord]) -> dict[str, int]:
    """Give the places of those of the jobs, all of one kind, that are queued, by their ids; 1 is the next."""
    queued = sorted(job.id for job in jobs if job.status is JobStatus.QUEUED)
    if not queued:
        return {}
    waits = (JobRecord.status == JobStatus.QUEUED, JobRecord.kind == jobs[0].kind)
    ahead = session.scalars(select(func.count()).where(*waits, JobRecord.id < queued[0])).one()
    if len(queued) == 1:
        return {queued[0]: ahead + 1}
    # numbered from the first of them to the last only, as what is before them was counted from the index
    numbered = (
        select(JobRecord.id, func.row_number().over(order_by=JobRecord.id).label("place"))
        .where(*waits, JobRecord.id.between(queued[0], queued[-1]))
        .subquery()
    )
    rows = session.execute(select(numbered.c.id, numbered.c.place).where(numbered.c.id.in_(queued)))
    return {job_id: ahead + place for job_id, place in rows}


def list_running(session: Session) -> Sequence[JobRecord]:
    """List the trainings that run, oldest first, with what tells when they end; no more than there are workers."""
    told = (JobRecord.status, JobRecord.cancel_requested_at, JobRecord.pause_requested_at, JobRecord.progress)
    read = load_only(*told, JobRecord.token, JobRecord.estimate_seconds, JobRecord.started_at)
    running = (JobRecord.status == JobStatus.RUNNING, JobRecord.kind == JobKind.FINE_TUNING)
    return session.scalars(select(JobRecord).where(*running).order_by(JobRecord.id).options(read)).all()


def sum_waiting(session: Session) -> WaitingWork:
    """Add up the estimates of all queued trainings."""
    jobs, estimated, seconds = session.execute(
        select(func.count(), func.count(JobRecord.estimate_seconds), func.sum(JobRecord.estimate_seconds)).where(
            JobRecord.status == JobStatus.QUEUED, JobRecord.kind == JobKind.FINE_TUNING
        )
    ).one()
    return WaitingWork(jobs, jobs - estimated, seconds or 0.0)
