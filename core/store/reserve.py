"""A little room beside a database that is a file, given up when the disk is full, for what gives room back.

Even to delete a row, SQLite has to write to its journal first. Knows no database.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Final

RESERVED_BYTES: Final = 4 * 2**20  # of the journal of a few rows, some hundred pages


class Reserve:
    """The file that holds the room. Any number of processes may keep and spend it."""

    def __init__(self, path: Path, size_bytes: int = RESERVED_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def keep(self) -> None:
        """Take the room where it is not taken and the disk has twice as much."""
        if self._path.exists() or shutil.disk_usage(self._path.parent).free < 2 * self._size_bytes:
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
            part.replace(self._path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        finally:
            part.unlink(missing_ok=True)

    def spend(self) -> bool:
        """Give the room up, and tell whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
