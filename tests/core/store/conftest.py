"""Every store test runs on both databases; each gets a migrated, empty one."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from core.estimates.estimate import Estimate
from core.jobs.spec import FileRef, JobSpec
from core.store import files, jobs, migrate
from core.store.blobs import Blob
from core.store.db import Database, create_db_engine, sqlite_file
from core.store.files import NewFile
from core.store.jobs import NewJob
from core.store.tables import FileRecord, JobRecord, Record
from tests.core.store.leased import claim
from tests.harness.job_specs import make_job_spec
from tests.harness.migrated import write_migrated
from tests.harness.servers.postgres import PostgresServer, running_postgres

MakeFile = Callable[..., FileRecord]
MakeJob = Callable[..., JobRecord]

BACKENDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.server))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """URL of a migrated database; emptied after each test, as making one anew takes a second."""
    url = postgres_server.url(postgres_server.create_database())
    migrate.upgrade(url)
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file, only to be read."""
    file = tmp_path_factory.mktemp("migrated") / "loramill.db"
    write_migrated(file)
    return file


@pytest.fixture(params=BACKENDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'loramill.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'loramill.db'}"
    write_migrated(sqlite_file(url))
    return url


@pytest.fixture(scope="session")
def emptying(migrated_postgres: str) -> Engine:
    """Connections for emptying the migrated database, on which neither triggers nor foreign keys keep a row."""
    db_engine = create_db_engine(migrated_postgres)
    event.listen(db_engine, "connect", _let_rows_go)
    return db_engine


def _let_rows_go(connection: Any, _record: object) -> None:
    connection.execute("SET session_replication_role = replica")
    connection.commit()


@pytest.fixture
def postgres_url(migrated_postgres: str, emptying: Engine) -> Iterator[str]:
    yield migrated_postgres
    # not TRUNCATE, which makes new files for each table and index, empty or not
    with emptying.begin() as connection:
        for table in Record.metadata.sorted_tables:
            connection.execute(table.delete())
    emptying.dispose()  # which leaves the next test's connections by themselves


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated database."""
    return str(request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.dispose()


@pytest.fixture
def make_file(database: Database) -> MakeFile:
    def make(*, content: bytes = b"{}", purpose: str = "fine-tune") -> FileRecord:
        with database.write() as session:
            blob = Blob(hashlib.sha256(content).hexdigest(), len(content))
            new = NewFile(
                "someone", "examples.jsonl", purpose, blob, "jsonl", example_format="prompt_completion", examples=1
            )
            return files.create(session, new, 1)

    return make


@pytest.fixture
def make_job(database: Database, make_file: MakeFile) -> MakeJob:
    training_file = make_file()

    def make(
        *,
        file: FileRecord = training_file,
        base_model: str = "tiny",
        caller: str = "someone",
        request_sha256: str = "0" * 64,
        suffix: str | None = None,
        metadata: dict[str, str] | None = None,
        estimate: Estimate | None = None,
        now: int = 100,
    ) -> JobRecord:
        requested: dict[str, Any] = {"model": base_model, "training_file": file.id}
        with database.write() as session:
            spec = job_spec(file, base_model)
            new = NewJob(caller, spec, requested, request_sha256, suffix, metadata, estimate)
            return jobs.create(session, new, now)

    return make


def job_spec(file: FileRecord, base_model: str = "tiny") -> JobSpec:
    training_file = FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type="jsonl")
    return make_job_spec(training_file, base_model=base_model)


@pytest.fixture
def running(database: Database, make_job: MakeJob) -> JobRecord:
    make_job()
    job = claim(database)
    assert job is not None
    return job
