"""What a process of the worker works with, opened once per process and passed down."""

import os
import socket
import uuid
from dataclasses import dataclass, field

from core.settings import Settings
from core.store.blobs import BlobStore, LocalBlobStore
from core.store.db import Database
from worker.trainer_process import process
from worker.trainer_process.gpus import count_gpus


@dataclass(frozen=True)
class Runtime:
    """Settings and stores of one process.

    ``owner`` tells claims of this process from those of any other, a restarted one with the same
    host name and pid included.
    """

    settings: Settings
    database: Database
    blobs: BlobStore
    trainer_command: tuple[str, ...]
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)


def open_runtime(settings: Settings) -> Runtime:
    """Open the stores, from which nothing is read yet, and count the GPUs that a trainer is started on."""
    command = process.command_for(count_gpus(process.trainer_environment(dict(os.environ))))
    return Runtime(settings, Database(settings.database), LocalBlobStore(settings.store_folder), command)
