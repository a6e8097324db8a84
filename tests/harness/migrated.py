"""Migrated SQLite databases without rows: made once in a process and copied, as migrating takes longer than a test."""

import tempfile
from functools import cache
from pathlib import Path

from core.store.migrate import upgrade


def write_migrated(file: Path) -> None:
    """Write a database of the newest revision, in a folder that is there."""
    file.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "loramill.db")
        upgrade(f"sqlite:///{file}")
        return file.read_bytes()
