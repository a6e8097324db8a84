"""Waits until what was written is on the disk, where the loss of power no longer undoes it."""

import os
from pathlib import Path


def wait_for_disk(path: Path) -> None:
    """Wait for a file's content, or for what a folder lists, as after a file in it was renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
