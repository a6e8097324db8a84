"""Bringing a database's tables to this version's, one process at a time.

The revisions themselves are in the package `migrations`.
"""

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text

from core.errors import DatabaseUnavailable, SchemaMismatch
from core.store.db import create_db_engine, migrating, reported_failures, sqlite_file
from core.store.revisions import REVISIONS, find_revision, is_newer

_LOCK_WAIT_S = 60
_ADVISORY_LOCK = 0x6C6F7261  # "lora"; any number that no other user of the database takes


def upgrade(url: str) -> None:
    """Bring the database to the newest revision; do nothing where it is there already.

    All of it is one transaction: a killed upgrade leaves the database as it was.

    Raises:
        DatabaseUnavailable: it is unreachable, or another upgrade still runs after a minute.
        DatabaseReadOnly: it cannot be written.
        SchemaMismatch: a newer Loramill made it.
        ValueError: the URL is neither of SQLite in a file nor of PostgreSQL.
    """
    db_engine = create_db_engine(url)
    try:
        with reported_failures(writes=True), _only_one(db_engine, url) as connection:
            revision = find_revision(connection)
            if is_newer(revision):
                raise SchemaMismatch(revision, REVISIONS[-1], True)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        db_engine.dispose()


def _config() -> Config:
    config = Config()
    # the package's own folder: a checkout and an installed wheel work alike
    config.set_main_option("script_location", str(importlib.resources.files("migrations")).replace("%", "%%"))
    return config


@contextmanager
def _only_one(db_engine: Engine, url: str) -> Iterator[Connection]:
    """Open the transaction of the one upgrade that may run now."""
    if db_engine.dialect.name == "postgresql":
        with migrating(db_engine).begin() as connection:
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
    with lock, migrating(db_engine).begin() as connection:
        yield connection
