"""What tests of leases do and look at: claims, publications, attempts, and all rows at once."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select, text

from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.events import EventLevel
from core.store import jobs
from core.store.db import Database, Session
from core.store.queue import claims, leases
from core.store.queue.leases import Lease
from core.store.tables import AttemptRecord, EventRecord, JobRecord

DIGEST = "a" * 64


def claim(database: Database, now: int = 200, base_models: tuple[str, ...] = ("tiny",)) -> JobRecord | None:
    with database.write() as session:
        return claims.claim(session, claims.WorkerIdentity("owner", "host", 1), base_models, now)


def claim_beside(
    database: Database,
    job: JobRecord | None,
    *,
    at_most: int,
    fit: Callable[[Sequence[JobRecord]], bool] = lambda _: True,
) -> list[JobRecord]:
    assert job is not None
    with database.write() as session:
        worker = claims.WorkerIdentity("owner", "host", 1)
        return claims.claim_beside(session, worker, job, 200, at_most=at_most, fit=fit)


def get(database: Database, job_id: str) -> JobRecord:
    with database.read() as session:
        return jobs.get(session, job_id)


def attempt_of(database: Database, job_id: str, token: int) -> AttemptRecord:
    with database.read() as session:
        return session.get_one(AttemptRecord, (job_id, token))


def events_of(database: Database, job_id: str) -> Sequence[EventRecord]:
    """Give a job's events, oldest first."""
    with database.read() as session:
        return session.scalars(select(EventRecord).filter_by(job_id=job_id).order_by(EventRecord.seq)).all()


def messages_of(database: Database, job_id: str) -> list[tuple[int, EventLevel, str]]:
    return [(event.seq, event.level, event.message) for event in events_of(database, job_id)]


def publish(session: Session, lease: Lease, name: str = "ft:tiny:local::1") -> None:
    adapter = StoredAdapter(DIGEST, 10, ())
    publication = Publication(adapter, name, "the completions", trained_tokens=5, result={"loss": 0.5})
    leases.publish(session, lease, publication, AttemptEnd(last_step=9), 300)


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        return {
            table: [tuple(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in ("jobs", "attempts", "events", "checkpoints", "adapters")
        }
