"""The store as writers open it: each blob has its row before its bytes lie there."""

import time
from pathlib import Path
from typing import Final

from core.errors import BlobFreed
from core.store.blobs import Blob, LocalBlobStore
from core.store.db import Database
from core.store.references.rows import touch

# For a collector that is deleting the same content; sweepers finish a dead one's work within seconds. A worker that
# waits here sends no heartbeat, so it must be well below a lease.
_WAIT_S: Final = 10
_LOOK_EVERY_S: Final = 0.1


def open_recorded(folder: Path, database: Database) -> LocalBlobStore:
    """Open the store of a folder for writers whose records are in this database."""
    return LocalBlobStore(folder, announce=RowFirst(database))


class RowFirst:
    """Told of a blob before it is stored, makes its row, or makes it young again."""

    def __init__(self, database: Database, wait_s: float = _WAIT_S) -> None:
        self._database = database
        self._wait_s = wait_s

    def __call__(self, blob: Blob) -> None:
        """Touch the blob's row.

        Raises:
            BlobFreed: the same content is being deleted, for longer than anyone should have to wait.
            DatabaseUnavailable: the database was busy or unreachable.
        """
        give_up_s = time.monotonic() + self._wait_s
        while not self._touch(blob):
            if time.monotonic() >= give_up_s:
                raise BlobFreed
            time.sleep(_LOOK_EVERY_S)

    def _touch(self, blob: Blob) -> bool:
        with self._database.write() as session:
            return touch(session, blob)
