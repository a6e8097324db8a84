"""Which process keeps others from writing a SQLite database: asked of the kernel, on 64-bit Linux.

Only for a process that has no connection to the database itself: when a file is closed, the kernel drops all
locks that the same process has on it, through whatever descriptor. Where the locks lie is SQLite's file format
(https://sqlite.org/src/file/src/os.h, and https://sqlite.org/walformat.html#locks).
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_HEADER_BYTES: Final = 20
_READ_VERSION: Final = 19  # offset in the header; 2: write-ahead log
_PENDING_BYTE: Final = 2**30
_LOCK_BYTES: Final = 512  # the pending, the reserved and 510 shared bytes
_WAL_WRITE_BYTE: Final = 120  # in the -shm file; of the others only recovery's keeps writers out
_WAL_RECOVER_BYTE: Final = 122


def find_lock_holder(database: Path) -> int | None:
    """Give the process that has kept writers out for longest, as far as it does so now; None where there is none.

    In a rollback journal that may be a reader: a commit waits for it. 0 stands for a process that cannot be
    seen from here, such as one in another container.
    """
    try:
        with database.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:  # made a moment ago, or no database
                return None
            if header[_READ_VERSION] < 2:
                return _holder(file.fileno(), fcntl.F_WRLCK, _PENDING_BYTE, _LOCK_BYTES)
            # with a write-ahead log every connection has a shared lock here all the time
            if (holder := _holder(file.fileno(), fcntl.F_RDLCK, _PENDING_BYTE, _LOCK_BYTES)) is not None:
                return holder
        with Path(f"{database}-shm").open("rb") as shared:
            for byte in (_WAL_WRITE_BYTE, _WAL_RECOVER_BYTE):
                if (holder := _holder(shared.fileno(), fcntl.F_RDLCK, byte, 1)) is not None:
                    return holder
    except FileNotFoundError:  # not made yet, or closed by its last user
        return None
    return None


def _holder(descriptor: int, kind: int, start: int, length: int) -> int | None:
    """Give the holder of the first lock that would be in the way of this one.

    The kernel keeps locks in the order in which their owners came, so it is the one who has held on for longest.
    """
    asked = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    found, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if found == fcntl.F_UNLCK else int(pid)
