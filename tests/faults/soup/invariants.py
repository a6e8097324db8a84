"""What must be true of a home's database after anything."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import func, select

from core.jobs.status import TERMINAL, JobStatus
from core.store.db import Database, Session
from core.store.tables import AdapterRecord, AttemptRecord, EventRecord, IdempotencyRecord, JobRecord
from tests.faults.soup.clients import Accepted


def broken_invariants(home: Path, accepted: Accepted) -> list[str]:
    """Give a sentence for each thing that is not as it must be."""
    database = Database(f"sqlite:///{home / 'loramill.db'}")
    try:
        with database.read() as session:
            return [*_jobs(session, accepted), *_events(session), *_attempts(session), *_models(session, accepted)]
    finally:
        database.dispose()


def _jobs(session: Session, accepted: Accepted) -> Iterator[str]:
    kept = dict(session.execute(select(IdempotencyRecord.key, IdempotencyRecord.job_id)).tuples().all())
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


def _events(session: Session) -> Iterator[str]:
    rows = session.execute(
        select(JobRecord.id, JobRecord.event_seq, func.count(EventRecord.seq), func.max(EventRecord.seq))
        .outerjoin(EventRecord, EventRecord.job_id == JobRecord.id)
        .group_by(JobRecord.id)
    )
    for job_id, seq, count, last in rows:
        if not seq == count == (last or 0):
            yield f"{job_id} numbered {seq} events and has {count}, the last being {last}"


def _attempts(session: Session) -> Iterator[str]:
    rows = session.execute(
        select(JobRecord.id, JobRecord.token, func.count(AttemptRecord.token), func.max(AttemptRecord.token))
        .outerjoin(AttemptRecord, AttemptRecord.job_id == JobRecord.id)
        .group_by(JobRecord.id)
    )
    for job_id, token, count, last in rows:
        if not token == count == (last or 0):
            yield f"{job_id} has token {token} and {count} attempts, the last being {last}"


def _models(session: Session, accepted: Accepted) -> Iterator[str]:
    published = dict(session.execute(select(AdapterRecord.job_id, AdapterRecord.name)).tuples().all())
    succeeded = select(JobRecord.id, JobRecord.fine_tuned_model).where(JobRecord.status == JobStatus.SUCCEEDED)
    models = dict(session.execute(succeeded).tuples().all())
    if published != models:
        yield f"published are {published}, and jobs succeeded with {models}"
    dead = set(session.scalars(select(AdapterRecord.name).where(AdapterRecord.state == "deleted")))
    for name in accepted.deleted_models - dead:
        yield f"{name} was deleted and lives"
