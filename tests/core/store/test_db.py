import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError

from core.errors import DatabaseReadOnly, DatabaseUnavailable, StorageFull
from core.store import db
from core.store.db import Database, wal_is_safe
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob


@pytest.fixture
def sqlite_database(migrated_sqlite: Path) -> Database:
    return Database(f"sqlite:///{migrated_sqlite}")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_sqlite_is_free_of_the_wal_reset_race(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


@pytest.mark.parametrize(("version", "mode"), [((3, 51, 2), "delete"), ((3, 51, 3), "wal")])
def test_the_journal_mode_follows_the_version(
    version: tuple[int, int, int], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with Database(f"sqlite:///{tmp_path / 'x.db'}").read() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == mode


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("busy_timeout", 5000),
        ("synchronous", 2),  # FULL
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("journal_size_limit", 64 * 2**20),
    ],
)
def test_sqlite_connections_are_configured(sqlite_database: Database, pragma: str, value: int) -> None:
    with sqlite_database.read() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == value


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql+pymysql://host/name"])
def test_databases_that_processes_cannot_share_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="use sqlite:///FILE"):
        Database(url)


def test_an_exception_rolls_the_whole_transaction_back(database: Database, make_job: MakeJob) -> None:
    job = make_job()

    def fail_half_way() -> None:
        with database.write() as session:
            session.execute(update(JobRecord).values(caller="another"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with database.read() as session:
        assert session.get_one(JobRecord, job.id).caller == "someone"


def test_rows_can_be_used_after_their_session(database: Database, make_job: MakeJob) -> None:
    assert make_job().base_model == "tiny"  # read after its transaction's end


def test_a_reading_session_cannot_write(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    with pytest.raises((OperationalError, InternalError)), database.read() as session:
        session.execute(update(JobRecord).values(caller="another"))
    with database.write() as session:  # and the connection it used can write again
        assert session.get_one(JobRecord, job.id).caller == "someone"
        session.execute(update(JobRecord).values(caller="another"))


def test_a_reading_session_on_sqlite_does_not_stop_writers(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    with database.read() as reader:
        assert reader.get_one(JobRecord, job.id).caller == "someone"
        with database.write() as writer:
            writer.execute(update(JobRecord).values(caller="another"))
        assert reader.scalar(select(JobRecord.caller)) == "another"


def test_reading_before_writing_never_ends_in_a_locked_database(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    threads, rounds = 8, 10

    def count_up() -> None:
        for _ in range(rounds):
            with database.write() as session:
                seen = session.scalars(select(JobRecord).where(JobRecord.id == job.id).with_for_update()).one()
                seen.event_seq += 1

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(count_up) for _ in range(threads)]:
            done.result()
    with database.read() as session:
        assert session.get_one(JobRecord, job.id).event_seq == threads * rounds


def test_a_writer_holds_the_lock_from_its_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_BUSY_TIMEOUT_MS", 1)
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.write() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable), database.write() as second:
            second.execute(text("SELECT 1"))


def test_a_foreign_writer_that_does_not_let_go_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_BUSY_TIMEOUT_MS", 1)
    file = tmp_path / "x.db"
    foreign = sqlite3.connect(file, isolation_level=None)
    foreign.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseUnavailable):
        Database(f"sqlite:///{file}").check()
    foreign.close()


def test_a_lock_that_is_not_given_in_time_is_reported(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_POSTGRESQL_LIMITS", "-c lock_timeout=1ms")
    database = Database(postgres_url)
    with database.write() as session:
        session.execute(text("LOCK TABLE jobs"))
        with pytest.raises(DatabaseUnavailable), database.write() as second:
            second.execute(update(JobRecord).values(caller="second"))
    database.dispose()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("statement_timeout", "10s"), ("lock_timeout", "3s"), ("idle_in_transaction_session_timeout", "30s")],
)
def test_postgresql_connections_are_limited(postgres_url: str, setting: str, value: str) -> None:
    database = Database(postgres_url)
    with database.read() as session:
        assert session.scalar(text(f"SHOW {setting}")) == value
    database.dispose()


def test_a_database_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        Database(f"sqlite:///{tmp_path / 'no such folder' / 'x.db'}").check()
    with pytest.raises(DatabaseUnavailable):
        Database(f"postgresql+psycopg://nobody@/nowhere?host={tmp_path}").check()


def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(postgres_url: str) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    other.check()
    with database.write() as session:
        ended = session.scalars(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).all()
    assert ended == [True]
    other.check()
    database.dispose()
    other.dispose()


def test_a_connection_that_the_server_ends_in_a_transaction_is_reported(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(DatabaseUnavailable), database.write() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    database.check()
    database.dispose()


def test_more_threads_than_connections_wait_for_their_turn(database: Database) -> None:
    together = threading.Barrier(20)

    def ask() -> None:
        together.wait()
        database.check()

    with ThreadPoolExecutor(20) as pool:
        for done in [pool.submit(ask) for _ in range(20)]:
            done.result()


def test_mistakes_in_a_statement_are_not_called_unavailability(database: Database) -> None:
    with pytest.raises((OperationalError, ProgrammingError)), database.read() as session:
        session.execute(text("SELECT * FROM no_such_table"))


def test_a_full_disk_is_reported_as_such(sqlite_database: Database, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.write() as session:
        session.execute(text("CREATE TABLE things (bytes BLOB)"))
        session.execute(text("PRAGMA max_page_count=4"))  # SQLite's own way to run out of space
    with pytest.raises(StorageFull), database.write() as session:
        session.execute(text("INSERT INTO things VALUES (zeroblob(100000))"))


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def test_a_database_that_cannot_be_written_says_so_and_a_reading_session_that_writes_is_a_mistake(
    backend: str, request: pytest.FixtureRequest, migrated_sqlite: Path
) -> None:
    if backend == "sqlite":
        database, read_only = Database(f"sqlite:///file:{migrated_sqlite}?mode=ro&uri=true"), "SELECT 1"
    else:
        database, read_only = Database(request.getfixturevalue("postgres_url")), "SET TRANSACTION READ ONLY"

    def write() -> None:
        with database.write() as session:
            session.execute(text(read_only))
            session.execute(text("UPDATE jobs SET caller = caller"))

    with pytest.raises(DatabaseReadOnly):
        write()
    with pytest.raises((OperationalError, InternalError)), database.read() as session:
        session.execute(text("UPDATE jobs SET caller = caller"))
    database.dispose()


def test_importing_the_store_starts_no_web_framework_and_no_model_library() -> None:
    program = (
        "import sys, core.store.jobs, core.store.migrate, core.store.blobs;"
        "print([name for name in ('torch', 'fastapi', 'celery', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
