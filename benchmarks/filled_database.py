"""Fills a database with jobs, events, files and models by copying one of each in the database itself."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Table, func, select, text

from core.store.db import Database, Session
from core.store.tables import (
    AdapterRecord,
    CheckpointRecord,
    EventRecord,
    FileRecord,
    JobMetadataRecord,
    JobRecord,
    Record,
)
from tests.harness.models.published_model import publish

_MODELS: Final = 5_000
_RUNNING: Final = 50


@dataclass(frozen=True)
class DatabaseSize:
    """How much is put in: jobs, those of them that wait, and events of each."""

    jobs: int
    waiting: int
    events: int


def fill(database: Database, file_id: str, amount: DatabaseSize) -> None:
    """Copy one published model's job, its events, file and adapter until there are as many as asked for.

    Jobs are numbered by age, ``ftjob-<32 hex digits>``; the newest wait. Half of them are of another base model.
    """
    with database.write() as session:
        publish(session, "ft:pattern")
        pattern = session.scalars(select(JobRecord.id)).one()
        _copy(session, JobRecord, amount.jobs, **_job_columns(file_id, amount))
        _copy(session, FileRecord, amount.jobs, where=f"id = '{file_id}'", id=_id("file-"), purpose="'results'")
        owner = {"job_id": _id("ftjob-")}
        _copy(session, JobMetadataRecord, amount.jobs, **owner, key="'team'", value="'t' || n % 50")
        _copy(session, JobMetadataRecord, amount.jobs, **owner, key="'run'", value="'r' || n")
        named = {"id": _id("adapter-"), "name": "'ft:' || n", **owner}
        _copy(session, AdapterRecord, min(_MODELS, amount.jobs), **named)
        _copy(session, CheckpointRecord, amount.jobs, **_checkpoint_columns(), **owner)
        each = f"(n - 1) / {amount.events} + 1"
        _copy(
            session,
            EventRecord,
            amount.jobs * amount.events,
            where=f"job_id = '{pattern}' AND seq = 1",
            id=_id("ftevent-"),
            job_id=_id("ftjob-", each),
            seq=f"(n - 1) % {amount.events} + 1",
        )
        assert session.scalar(select(func.count()).select_from(JobRecord)) == amount.jobs + 1
    _settle(database)


def _job_columns(file_id: str, amount: DatabaseSize) -> dict[str, str]:
    waits = f"n > {amount.jobs - amount.waiting}"
    runs = f"n > {amount.jobs - amount.waiting - _RUNNING}"
    return {
        "id": _id("ftjob-"),
        "status": f"CASE WHEN {waits} THEN 'queued' WHEN {runs} THEN 'running' ELSE 'succeeded' END",
        "base_model": f"CASE WHEN {waits} OR n % 2 = 0 THEN base_model ELSE 'other' END",
        "training_file_id": f"CASE WHEN n = 1 THEN '{file_id}' ELSE {_id('file-')} END",
        "request_sha256": _id("", digits=64),
        "rung_at": "4000000000",
        "estimate_seconds": "60.0",
    }


def _checkpoint_columns() -> dict[str, str]:
    digest = "'" + "e" * 64 + "'"
    columns = {"id": _id("ftckpt-"), "step": "1", "name": "'ft:' || n || ':ckpt-step-1'"}
    return {**columns, "adapter_sha256": digest, "metrics": "'{}'", "created_at": "1"}


def _id(prefix: str, number: str = "n", digits: int = 32) -> str:
    """Give the SQL of an id; `_copy` puts in how the database writes a number in hexadecimal."""
    return f"'{prefix}' || <hex {digits}>({number})"


def _copy(session: Session, record: type[Record], count: int, *, where: str | None = None, **changed: str) -> None:
    """Insert ``count`` copies of the row of ``record`` that there is, or of none where all columns are given."""
    table = record.__table__
    assert isinstance(table, Table)
    columns = [column.name for column in table.columns]
    values = ", ".join(changed.get(name, f'"{name}"') for name in columns)
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    for digits in (32, 64):
        written = f"printf('%0{digits}x', " if is_sqlite else f"loramill_hex({digits}, "
        values = values.replace(f"<hex {digits}>(", written)
    if set(columns) <= set(changed):
        source = "numbers"
    else:
        condition = "" if where is None else f"WHERE {where}"
        source = f"numbers, (SELECT * FROM {table.name} {condition} ORDER BY id LIMIT 1) AS pattern"
    if is_sqlite:
        numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
    else:
        numbers = f"WITH numbers AS (SELECT generate_series(1, {count}) AS n)"
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(
            text(
                "CREATE OR REPLACE FUNCTION loramill_hex(digits int, n bigint) RETURNS text IMMUTABLE LANGUAGE sql "
                "AS $$ SELECT lpad(to_hex(n), digits, '0') $$"
            )
        )
    names = ", ".join(f'"{name}"' for name in columns)
    insert = f"INSERT INTO {table.name} ({names})"
    statement = f"{insert} {numbers} SELECT {values} FROM {source}"
    session.connection().exec_driver_sql(statement if is_sqlite else statement.replace("%", "%%"))


def _settle(database: Database) -> None:
    """Have PostgreSQL know the tables' sizes, as autovacuum does within minutes; SQLite needs nothing."""
    with database.write() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(text("ANALYZE"))
