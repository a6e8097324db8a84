"""How Alembic reaches the database: over the caller's connection, else by the settings."""

from alembic import context
from sqlalchemy import Connection

from core.settings import load_settings
from core.store.db import create_db_engine, migrating
from core.store.revisions import VERSION_TABLE
from core.store.tables import Record


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Record.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,  # SQLite cannot alter most things in place
    )
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        _run(given)
        return
    db_engine = create_db_engine(load_settings().database)
    try:
        with migrating(db_engine).connect() as connection:
            _run(connection)
    finally:
        db_engine.dispose()


_main()
