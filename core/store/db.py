"""Connections and transactions: SQLite for one machine, PostgreSQL for many.

Owns how either database is configured and how its failures are reported; knows no table.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, sessionmaker
from sqlalchemy.orm import Session as Session

from core.errors import DatabaseDamaged, DatabaseReadOnly, DatabaseUnavailable, ServiceError, StorageFull
from core.store.reserve import Reserve

_BUSY_TIMEOUT_MS = 5000
_JOURNAL_BYTES = 64 * 2**20
_POSTGRESQL_LIMITS = "-c statement_timeout=10s -c lock_timeout=3s -c idle_in_transaction_session_timeout=30s"
_POSTGRESQL_DISK_FULL = "53100"  # SQLSTATE disk_full
_POSTGRESQL_READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction, as a standby answers
_SQLITE_UNAVAILABLE = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
T = TypeVar("T")
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Database:
    """One process's pool of connections; threads may share it, forked processes may not."""

    def __init__(self, url: str) -> None:
        """Prepare a pool; nothing is connected yet.

        Raises:
            ValueError: the URL is neither of SQLite in a file nor of PostgreSQL.
        """
        self._db_engine = create_db_engine(url)
        is_file = self._db_engine.dialect.name == "sqlite"
        self._reserve = Reserve(Path(f"{sqlite_file(url)}.reserve")) if is_file else None
        self._writers = sessionmaker(writing(self._db_engine), expire_on_commit=False)
        self._readers = sessionmaker(_reading(self._db_engine), expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open one transaction: committed on leaving, rolled back on an exception.

        On SQLite it holds the only write lock from its first statement on, so what it read
        stays true until it commits. Keep it short.

        Raises:
            DatabaseUnavailable: the database was busy or unreachable. When it is raised on
                leaving, the commit may or may not have happened: read again to know.
            DatabaseReadOnly: the database cannot be written.
            StorageFull: the database's disk is full; nothing was written.
        """
        with reported_failures(writes=True), self._writers.begin() as session:
            yield session

    def write_freeing(self, work: Callable[[Session], T]) -> T:
        """Do in one transaction what lets go of room, on a full disk too: with the room that is kept for this.

        Raises:
            DatabaseUnavailable, StorageFull: as `write`.
        """
        try:
            with self.write() as session:
                return work(session)
        except StorageFull:
            if self._reserve is None or not self._reserve.spend():
                raise
        with self.write() as session:
            return work(session)

    def rehearse(self, work: Callable[[Session], T]) -> T:
        """Do something in one transaction that is then taken back, and give what it came to.

        Raises:
            DatabaseUnavailable, StorageFull: as `write`.
        """
        with self.write() as session:
            done = work(session)
            session.rollback()
        return done

    @property
    def dialect(self) -> str:
        """Which database it is: ``sqlite`` or ``postgresql``."""
        return self._db_engine.dialect.name

    def keep_reserve(self) -> None:
        """Keep a little room for `write_freeing`, where the database is a file and there is some."""
        if self._reserve is not None:
            self._reserve.keep()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that cannot write. On SQLite each statement sees the newest commit.

        Raises:
            DatabaseUnavailable: the database was busy or unreachable.
        """
        with reported_failures(), self._readers() as session:
            yield session

    def check(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            DatabaseUnavailable: there was none.
        """
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def dispose(self) -> None:
        """Close the pool's idle connections."""
        self._db_engine.dispose()


def create_db_engine(url: str) -> Engine:
    """Give an SQLAlchemy engine with our settings for the URL's database.

    Raises:
        ValueError: the URL is neither of SQLite in a file nor of PostgreSQL.
    """
    backend = make_url(url).get_backend_name()
    pool: dict[str, Any] = {"pool_size": 5, "max_overflow": 5, "pool_timeout": 3, "pool_use_lifo": True}
    if backend == "sqlite":
        sqlite_file(url)
        db_engine = create_engine(url, **pool)
        event.listen(db_engine, "connect", _configure_sqlite)
        event.listen(db_engine, "begin", _begin_sqlite)
        return db_engine
    if backend == "postgresql":
        return create_engine(
            url,
            **pool,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={
                "connect_timeout": 3,
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "options": _POSTGRESQL_LIMITS,
            },
        )
    raise ValueError(f"database URLs of {backend} are not supported; use sqlite:///FILE or postgresql+psycopg://…")


def insert_into(session: Session, record: type[DeclarativeBase]) -> Any:
    """Give the database's own INSERT, which can say what to do on a conflict."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(record)


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_file(url: str) -> Path:
    """Give the file of a SQLite URL.

    Raises:
        ValueError: the URL names a database in memory, which no second process could see.
    """
    name = make_url(url).database
    if not name or name == ":memory:":
        raise ValueError("the database must be a file, because several processes share it; use sqlite:///FILE")
    return Path(name)


def writing(db_engine: Engine) -> Engine:
    """Give the engine's view whose transactions write."""
    return db_engine.execution_options(loramill_writes=True)


def migrating(db_engine: Engine) -> Engine:
    """Give the engine's view whose transactions change tables.

    SQLite replaces most tables by a copy, and would follow the references to the one that is dropped; it
    can be told not to only before the transaction. Use an engine of its own, as its connections stay so.
    """
    return writing(db_engine).execution_options(loramill_migrates=True)


def _reading(db_engine: Engine) -> Engine:
    if db_engine.dialect.name == "postgresql":
        return db_engine.execution_options(postgresql_readonly=True)
    return db_engine


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Tell whether this SQLite is free of the WAL-reset race, which can corrupt a database.

    It was in 3.7.0 to 3.51.2 and is mended in 3.51.3 and the backports 3.50.7 and 3.44.6
    (https://sqlite.org/wal.html, "The WAL-Reset Bug").
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not by the driver
    journal_mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        f"journal_mode={journal_mode}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
        "wal_autocheckpoint=1000",
        f"journal_size_limit={_JOURNAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("loramill_writes", False):
        connection.exec_driver_sql("PRAGMA query_only=OFF")
        if options.get("loramill_migrates", False):
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        # The lock is taken at once: a lock upgraded after a read fails without waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("PRAGMA query_only=ON")  # and no BEGIN: each statement stands alone


@contextmanager
def reported_failures(*, writes: bool = False) -> Iterator[None]:
    """Turn the database's own troubles into our errors; mistakes in a statement pass through.

    Args:
        writes: the transaction may write, so a refusal to is the database's trouble and not our mistake.
    """
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable from error
    except DBAPIError as error:
        reported = DatabaseReadOnly() if writes and _is_read_only(error.orig) else _as_service_error(error)
        if reported is None:
            raise
        raise reported from error


def _is_read_only(cause: object) -> bool:
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return getattr(cause, "sqlstate", None) == _POSTGRESQL_READ_ONLY


def _as_service_error(error: DBAPIError) -> ServiceError | None:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        if str(cause).startswith("Could not decode to UTF-8"):  # which has no code
            return DatabaseDamaged()
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary result code
        if code == sqlite3.SQLITE_FULL:
            return StorageFull()
        if code in _SQLITE_DAMAGED:
            return DatabaseDamaged()
        return DatabaseUnavailable() if code in _SQLITE_UNAVAILABLE else None
    if getattr(cause, "sqlstate", None) == _POSTGRESQL_DISK_FULL:
        return StorageFull()
    if error.connection_invalidated or isinstance(error, OperationalError):
        return DatabaseUnavailable()
    return None
