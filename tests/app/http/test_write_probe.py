"""Whether the database takes writes: tried for real, seldom, and told in time."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.http import write_probe
from app.http.write_probe import KEPT_S, WriteProbe
from core.errors import DatabaseReadOnly, ServiceError, StorageFull
from core.store.db import Database, Session
from tests.app.conftest import ApiHarness
from tests.harness.fake_clock import FakeClock


class CountingDatabase(Database):
    """Counts write transactions, and lets a test hold them up."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.writes = 0
        self.may_write = threading.Event()
        self.may_write.set()

    @contextmanager
    def write(self) -> Iterator[Session]:
        self.writes += 1
        assert self.may_write.wait(30)
        with super().write() as session:
            yield session


@pytest.fixture
def database(harness: ApiHarness) -> Iterator[CountingDatabase]:
    database = CountingDatabase(harness.settings.database)
    yield database
    database.dispose()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.rollback()
        holder.close()


def test_an_answer_is_given_again_for_a_while(database: CountingDatabase) -> None:
    clock = FakeClock()
    probe = WriteProbe(database, clock)
    assert [probe.find_problem() for _ in range(100)] == [None] * 100
    assert database.writes == 1
    clock.now_s += KEPT_S
    assert probe.find_problem() is None
    assert database.writes == 2


def test_askers_at_the_same_time_share_one_try_and_none_waits_long(
    database: CountingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_probe, "WAIT_S", 0.2)
    probe = WriteProbe(database)
    database.may_write.clear()
    answers: list[str | None] = []
    askers = [threading.Thread(target=lambda: answers.append(probe.find_problem())) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    assert len(answers) == 8
    assert all(answer and "left a write unanswered" in answer for answer in answers)
    database.may_write.set()
    assert probe._ended.wait(30)
    assert probe.find_problem() is None
    assert database.writes == 1


def test_a_try_writes_to_the_file(harness: ApiHarness, database: CountingDatabase) -> None:
    file = harness.settings.home / "loramill.db"
    with sqlite3.connect(file) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        assert WriteProbe(database).find_problem() is None
        assert other.execute("PRAGMA data_version").fetchone() != before
    other.close()


def test_a_database_that_another_process_keeps_locked_is_not_ready_though_it_can_be_read(
    client: TestClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_probe, "WAIT_S", 30.0)
    with locked(harness.settings.home / "loramill.db"):
        response = client.get("/readyz")
        assert client.get("/v1/files").status_code == 200
    part = response.json()["parts"]["database"]
    assert (response.status_code, part["ok"]) == (503, False)
    assert part["detail"] == "the database can be read, but takes no writes: another process keeps it locked"


@pytest.mark.parametrize("trouble", [StorageFull(), DatabaseReadOnly()], ids=lambda trouble: trouble.code)
def test_other_reasons_are_told_in_their_own_words(harness: ApiHarness, trouble: ServiceError) -> None:
    class Refusing(Database):
        @contextmanager
        def write(self) -> Iterator[Session]:
            raise trouble
            yield

    database = Refusing(harness.settings.database)
    assert WriteProbe(database).find_problem() == str(trouble)
    database.dispose()
