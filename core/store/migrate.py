"""Bringing a database's tables to this version's, one process at a time.

The revisions themselves are in the package `migrations`.
"""

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text

from core.errors import DatabaseUnavailable, SchemaMismatch
from core.store.db import create_db_engine, reported_failures, sqlite_file, writing

VERSION_TABLE = "loramill_alembic_version"
_LOCK_WAIT_S = 60
_ADVISORY_LOCK = 0x6C6F7261  # "lora"; any number that no other user of the database takes


def upgrade(url: str) -> None:
    """Bring the database to the newest revision; do nothing where it is there already.

    All of it is one transaction: a killed upgrade leaves the database as it was.

    Raises:
        DatabaseUnavailable: it is unreachable, or another upgrade still runs after a minute.
        SchemaMismatch: a newer Loramill made it.
        ValueError: the URL is neither of SQLite in a file nor of PostgreSQL.
    """
    db_engine = create_db_engine(url)
    try:
        with reported_failures(), _only_one(db_engine, url) as connection:
            found, needed, is_newer = _revisions(connection)
            if is_newer:
                raise SchemaMismatch(found, needed, True)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        db_engine.dispose()


def check_schema(url: str) -> None:
    """Make sure that the database's tables are the ones this version works with.

    Raises:
        SchemaMismatch: they are older or newer.
        DatabaseUnavailable: it is unreachable.
    """
    db_engine = create_db_engine(url)
    try:
        with reported_failures(), db_engine.connect() as connection:
            found, needed, is_newer = _revisions(connection)
    finally:
        db_engine.dispose()
    if found != needed:
        raise SchemaMismatch(found, needed, is_newer)


def _config() -> Config:
    config = Config()
    # the package's own folder: a checkout and an installed wheel work alike
    config.set_main_option("script_location", str(importlib.resources.files("migrations")).replace("%", "%%"))
    return config


def _revisions(connection: Connection) -> tuple[str | None, str, bool]:
    """Give the database's revision, ours, and whether the former is one we do not know, hence newer."""
    script = ScriptDirectory.from_config(_config())
    needed = script.get_current_head()
    assert needed is not None
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    return found, needed, found is not None and found not in known


@contextmanager
def _only_one(db_engine: Engine, url: str) -> Iterator[Connection]:
    """Open the transaction of the one upgrade that may run now."""
    if db_engine.dialect.name == "postgresql":
        with writing(db_engine).begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
            yield connection
        return
    file = sqlite_file(url)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(Path(f"{file}.migrating"), timeout=_LOCK_WAIT_S).acquire()
    except Timeout as error:
        raise DatabaseUnavailable from error
    with lock, writing(db_engine).begin() as connection:
        yield connection
