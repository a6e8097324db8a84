"""What a process of the worker works with, opened once per process and passed down."""

import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.queue.claims import WorkerIdentity
from core.store.references.recorded import open_recorded
from worker.trainer_process import process
from worker.trainer_process.gpus import count_gpus


def _own_identity() -> WorkerIdentity:
    # the random part tells a restarted process from one before it with the same host name and pid
    return WorkerIdentity(owner=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid())


@dataclass(frozen=True)
class WorkerRuntime:
    """Settings and stores of one process, and by whose name it claims jobs."""

    settings: Settings
    database: Database
    blobs: BlobStore
    trainer_command: tuple[str, ...]
    identity: WorkerIdentity = field(default_factory=_own_identity)
    wall_clock: Callable[[], float] = time.time  # Unix seconds, for what is recorded


def open_runtime(settings: Settings) -> WorkerRuntime:
    """Open the stores, from which nothing is read yet, and count the GPUs that a trainer is started on."""
    command = process.command_for(count_gpus(process.trainer_environment(dict(os.environ))))
    database = Database(settings.database)
    return WorkerRuntime(settings, database, open_recorded(settings.store_folder, database), command)
