"""What tests of leases do and look at: claims, publications, attempts, and all rows at once."""

from typing import Any

from sqlalchemy import text

from core.jobs.events import EventLevel
from core.store import events, jobs, leases
from core.store.db import Database, Session
from core.store.tables import AttemptRecord, JobRecord

DIGEST = "a" * 64


def claim(database: Database, now: int = 200, base_models: tuple[str, ...] = ("tiny",)) -> JobRecord | None:
    with database.write() as session:
        return leases.claim(session, owner="owner", host="host", pid=1, base_models=base_models, now=now)


def get(database: Database, job_id: str) -> JobRecord:
    with database.read() as session:
        return jobs.get(session, job_id)


def attempt_of(database: Database, job_id: str, token: int) -> AttemptRecord:
    with database.read() as session:
        return session.get_one(AttemptRecord, (job_id, token))


def messages_of(database: Database, job_id: str) -> list[tuple[int, EventLevel, str]]:
    with database.read() as session:
        return [(event.seq, event.level, event.message) for event in events.list_after(session, job_id, 0, 100)]


def publish(session: Session, job_id: str, token: int, name: str = "ft:tiny:local::1") -> None:
    leases.publish(
        session,
        job_id,
        token,
        adapter_sha256=DIGEST,
        bytes=10,
        name=name,
        trained_on="the completions",
        trained_tokens=5,
        result={"loss": 0.5},
        last_step=9,
        now=300,
    )


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        return {
            table: [tuple(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in ("jobs", "attempts", "events", "checkpoints", "adapters")
        }
