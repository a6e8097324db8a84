"""Whether a database is whole, as far as it can tell: its file or pages, its foreign keys, the digests in its rows.

A damaged database answers with any error there is, so everything here is read as text, and an error is a finding.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.errors import ServiceError
from core.store.db import Database, Session
from core.store.tables import Record

T = TypeVar("T")


@dataclass(frozen=True)
class Integrity:
    """What a look at the whole database found. ``limits`` says what it cannot tell."""

    problems: tuple[str, ...]
    limits: str


_SQLITE_LIMITS = (
    "SQLite has no checksums: bytes that changed within a value, such as a file's name or an event's words, are not "
    "noticed, but for digests and specifications of jobs"
)
_POSTGRESQL_LIMITS = "every row was read"


def check_integrity(database: Database) -> Integrity:
    """Read the whole database. Nothing is raised: what cannot be read is a problem found."""
    if database.dialect == "sqlite":
        limits, own = _SQLITE_LIMITS, _pages
    else:
        checksums = attempted(lambda: _checksums(database))
        limits, own = f"{_POSTGRESQL_LIMITS}; {checksums}", _rows
    looks = (own, _foreign_keys, _specifications)
    return Integrity(tuple(problem for look in looks for problem in _found(database, look)), limits)


def attempted(work: Callable[[], T]) -> T | str:
    """Do something with a database that may be damaged; give what it says of itself where it cannot."""
    try:
        return work()
    except (DBAPIError, ServiceError, UnicodeDecodeError) as error:  # SQLite's driver meets damaged text by the last
        return _said(error)


def _found(database: Database, look: Callable[[Session], Iterator[str]]) -> list[str]:
    found: list[str] = []

    def collect() -> None:
        with database.read() as session:
            found.extend(look(session))

    ended_by = attempted(collect)
    return found if ended_by is None else [*found, ended_by]


def _said(error: DBAPIError | ServiceError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a text in it is no UTF-8: {error}"
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)


def _pages(session: Session) -> Iterator[str]:
    """Have SQLite hold its pages, indexes and constraints against each other."""
    for (said,) in session.execute(text("PRAGMA integrity_check(100)")):
        if said != "ok":
            yield str(said)


def _rows(session: Session) -> Iterator[str]:
    """Read every row: PostgreSQL verifies a page, where it has checksums, when it reads it."""
    for table in Record.metadata.sorted_tables:
        rows = session.execute(text(f"SELECT * FROM {table.name}").execution_options(yield_per=1000))
        for _ in rows:
            pass
    yield from ()


def _checksums(database: Database) -> str:
    with database.read() as session:
        on = session.scalar(text("SHOW data_checksums")) == "on"
    return (
        "its pages have checksums"
        if on
        else "its pages have no checksums (initdb --data-checksums), so bytes that "
        "changed within a value are not noticed"
    )


def _foreign_keys(session: Session) -> Iterator[str]:
    for table in Record.metadata.sorted_tables:
        for key in table.foreign_keys:
            name, other = key.parent.name, key.column
            broken = session.scalar(
                text(
                    f"SELECT count(*) FROM {table.name} WHERE {name} IS NOT NULL AND NOT EXISTS "
                    f"(SELECT 1 FROM {other.table.name} WHERE {other.table.name}.{other.name} = {table.name}.{name})"
                )
            )
            if broken:
                yield f"{broken:,} rows of {table.name} name a {name} that {other.table.name} does not have"


def _specifications(session: Session) -> Iterator[str]:
    """Hold each job's specification against the digest that was written beside it."""
    for job_id, spec, sha256 in session.execute(text("SELECT id, CAST(spec AS TEXT), spec_sha256 FROM jobs")):
        try:
            canonical = json.dumps(json.loads(spec), sort_keys=True, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            yield f"the specification of job {job_id} cannot be read: {error}"
            continue
        if hashlib.sha256(canonical.encode()).hexdigest() != sha256:
            yield f"the specification of job {job_id} has changed: it does not have its digest"
