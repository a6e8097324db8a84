"""Which revisions of the tables there are, and whether a database has the newest.

Bringing it there is ``core.store.migrate``'s, which needs Alembic; to tell, nothing but a query is needed.
"""

from typing import Final

from sqlalchemy import Connection, inspect, text

from core.errors import SchemaMismatch
from core.store.db import Database, create_db_engine, reported_failures

VERSION_TABLE: Final = "loramill_alembic_version"
# of `migrations`, oldest first
REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
)


def check_schema(url: str) -> None:
    """Make sure that the database's tables are the ones this version works with.

    Raises:
        SchemaMismatch: they are older or newer.
        DatabaseUnavailable: it is unreachable.
    """
    db_engine = create_db_engine(url)
    try:
        with reported_failures(), db_engine.connect() as connection:
            revision = find_revision(connection)
    finally:
        db_engine.dispose()
    if revision != REVISIONS[-1]:
        raise SchemaMismatch(revision, REVISIONS[-1], is_newer(revision))


def try_write(database: Database) -> None:
    """Write to the database and change nothing: the one row that every database has becomes what it was.

    Raises:
        DatabaseUnavailable: another process kept it from being written, or it is unreachable.
        DatabaseReadOnly: it cannot be written.
        StorageFull: its disk is full.
    """
    with database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = version_num"))


def find_revision(connection: Connection) -> str | None:
    """Give the revision that the database is at; None when it has no tables yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision


def is_newer(revision: str | None) -> bool:
    """Tell whether a revision is one we do not know, hence of a newer Loramill."""
    return revision is not None and revision not in REVISIONS
