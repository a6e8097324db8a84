"""What a process of the worker works with, opened once per process and passed down."""

import socket
import uuid
from dataclasses import dataclass, field

from core.settings import Settings
from core.store.blobs import BlobStore, LocalBlobStore
from core.store.db import Database
from worker import trainer_process


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
    """Open the stores; nothing is read from them yet."""
    return Runtime(
        settings, Database(settings.database), LocalBlobStore(settings.store_folder), trainer_process.COMMAND
    )
