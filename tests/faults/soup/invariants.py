"""What must be true of a home's database after anything."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute

from core.jobs.status import TERMINAL, JobStatus
from core.store.db import Database, Session
from core.store.tables import AdapterRecord, AdapterState, AttemptRecord, EventRecord, IdempotencyRecord, JobRecord
from tests.faults.soup.clients import Accepted


def broken_invariants(home: Path, accepted: Accepted) -> list[str]:
    """Give a sentence for each thing that is not as it must be."""
    database = Database(f"sqlite:///{home / 'loramill.db'}")
    try:
        with database.read() as session:
            return [
                *_jobs(session, accepted),
                *_numbered(session, JobRecord.event_seq, EventRecord.seq, EventRecord.job_id),
                *_numbered(session, JobRecord.token, AttemptRecord.token, AttemptRecord.job_id),
                *_models(session, accepted),
            ]
    finally:
        database.dispose()


def _jobs(session: Session, accepted: Accepted) -> Iterator[str]:
    kept = dict(session.execute(select(IdempotencyRecord.key, IdempotencyRecord.job_id)).all())
    for key, job_id in accepted.jobs.items():
        if kept.get(key) != job_id:
            yield f"the key of {job_id} leads to {kept.get(key)}"
    # a client that gave up may have made a job all the same, once
    for job_id, status in session.execute(select(JobRecord.id, JobRecord.status)):
        if job_id not in kept.values():
            yield f"{job_id} is of no key"
        if status not in TERMINAL and job_id in accepted.jobs.values():
            yield f"{job_id} is {status}"
    if len(set(kept.values())) != len(kept):
        yield "two keys lead to one job"


def _numbered(
    session: Session,
    counter: InstrumentedAttribute[int],
    number: InstrumentedAttribute[int],
    job_id: InstrumentedAttribute[str],
) -> Iterator[str]:
    """Tell of jobs whose rows of a kind are not as many, and not numbered as far, as the job's counter says."""
    rows = session.execute(
        select(JobRecord.id, counter, func.count(number), func.max(number))
        .outerjoin(number.class_, job_id == JobRecord.id)
        .group_by(JobRecord.id)
    )
    for job, counted, count, last in rows:
        if not counted == count == (last or 0):
            yield f"{job} counted {counted} by {counter} and has {count} of {number}, the last being {last}"


def _models(session: Session, accepted: Accepted) -> Iterator[str]:
    published = dict(session.execute(select(AdapterRecord.job_id, AdapterRecord.name)).all())
    succeeded = select(JobRecord.id, JobRecord.fine_tuned_model).where(JobRecord.status == JobStatus.SUCCEEDED)
    models = dict(session.execute(succeeded).all())
    if published != models:
        yield f"published are {published}, and jobs succeeded with {models}"
    dead = set(session.scalars(select(AdapterRecord.name).where(AdapterRecord.state == AdapterState.DELETED)))
    for name in accepted.deleted_models - dead:
        yield f"{name} was deleted and lives"
