from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from core.store import jobs, migrate
from core.store.db import Database
from core.store.jobs import IdempotencyKey
from core.store.tables import JobRecord
from tests.faults.soup.clients import Accepted
from tests.faults.soup.invariants import broken_invariants
from tests.harness.models.published_model import publish


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Of a home in which one job, made with a key, has published its model."""
    url = f"sqlite:///{tmp_path / 'loramill.db'}"
    migrate.upgrade(url)
    database = Database(url)
    with database.write() as session:
        publish(session, "ft:x")
        job_id = session.scalars(select(JobRecord.id)).one()
        key = IdempotencyKey("anonymous", "jobs", "k")
        jobs.remember_idempotent(session, key, body_sha256="b" * 64, job_id=job_id, now=1)
    yield database
    database.dispose()


@pytest.fixture
def accepted(database: Database) -> Accepted:
    with database.read() as session:
        [job] = jobs.list_page(session, after=None, limit=2)[0]
    return Accepted(jobs={"k": job.id})


def test_a_job_that_published_its_model_breaks_none(tmp_path: Path, accepted: Accepted) -> None:
    assert broken_invariants(tmp_path, accepted) == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("DELETE FROM events WHERE seq = 1", "counted 1 by JobRecord.event_seq and has 0 of EventRecord.seq"),
        ("DELETE FROM attempts", "counted 1 by JobRecord.token and has 0 of AttemptRecord.token"),
        ("DELETE FROM adapters", "published are {}, and jobs succeeded with"),
        ("DELETE FROM idempotency", "leads to None"),
    ],
)
def test_what_is_lost_is_told(tmp_path: Path, database: Database, accepted: Accepted, fault: str, told: str) -> None:
    with database.write() as session:
        session.execute(text(fault))
    assert any(told in sentence for sentence in broken_invariants(tmp_path, accepted))


def test_a_deleted_model_that_lives_is_told(tmp_path: Path, accepted: Accepted) -> None:
    accepted.deleted_models.add("ft:x")
    assert broken_invariants(tmp_path, accepted) == ["ft:x was deleted and lives"]
