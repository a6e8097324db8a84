"""Of which jobs a host keeps run folders that nobody needs any more. Where those lie is the worker's matter."""

from collections.abc import Collection

from sqlalchemy import select

from core.jobs.status import JobStatus
from core.store.db import Session
from core.store.references.rows import database_now
from core.store.tables import AttemptRecord, JobRecord

_DAY_S = 24 * 60 * 60


def list_deleted(session: Session, job_ids: Collection[str]) -> list[str]:
    """List those of the jobs that are in the database no more."""
    there = session.scalars(select(JobRecord.id).where(JobRecord.id.in_(job_ids)))
    return sorted(set(job_ids) - set(there))


def find_kept_attempts(session: Session, job_ids: Collection[str], keep_days: int) -> dict[str, int | None]:
    """Give of those of the jobs that ended so long ago the attempt that succeeded, by its token; None: none has."""
    rows = session.execute(
        select(JobRecord.id, AttemptRecord.token)
        .outerjoin(
            AttemptRecord,
            (AttemptRecord.job_id == JobRecord.id) & (AttemptRecord.outcome == JobStatus.SUCCEEDED.value),
        )
        .where(JobRecord.id.in_(job_ids), JobRecord.finished_at <= database_now(session) - keep_days * _DAY_S)
    )
    return {row.id: row.token for row in rows}
