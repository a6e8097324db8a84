"""The right to run a job of a kind on this worker, held by one thread of one process at a time.

A worker learns of jobs in two ways, by the doorbell (in a pool process) and by its own polling (a thread of
the main process). The kernel frees the slot when its holder dies, however it dies.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.jobs.kind import JobKind


def slot_path(runs_folder: Path, worker_pid: int, kind: JobKind) -> Path:
    """Give the file of the worker with this main process; several workers may share a folder."""
    return runs_folder / "slots" / f"{socket.gethostname()}-{worker_pid}-{kind.value}"


class WorkerSlot:
    """One worker's slot. Each `take` opens the file anew, so threads exclude each other too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def take(self) -> Iterator[bool]:
        """Hold the slot while the context lasts; False when another holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)
