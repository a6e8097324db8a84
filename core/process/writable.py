"""Whether a process may write where it has to: found out when it starts, rather than by the first job."""

import errno
import os
import tempfile
from pathlib import Path

from core.errors import StartRefused
from core.settings import PREFIX


def require_writable(folder: Path) -> None:
    """Make sure that files can be made in a folder of the home, making it if need be. A full disk is no refusal.

    Raises:
        StartRefused: they cannot; the sentence names the folder, the reason and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return
        reason = error.strerror or type(error).__name__
        raise StartRefused(
            f"{folder} cannot be written: {reason}; let user {os.getuid()} write there, or choose another {PREFIX}HOME"
        ) from error
