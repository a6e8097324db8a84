"""Where the lines of the stack's processes go: to the terminal with a name in front, and to a capped file.

Knows nothing of what the processes are or whether they live.
"""

import logging
import logging.handlers
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TextIO

from core.process.logs import visible

FILE_BYTES = 5 * 2**20
FILES_KEPT = 3
LONGEST_LINE_BYTES = 64 * 2**10
COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)  # SGR codes; the names take them in turn


class Terminal:
    """A stream that several threads write whole lines to, each under its process's name."""

    def __init__(self, stream: TextIO, names: Sequence[str]) -> None:
        self._stream: TextIO | None = stream
        self._lock = threading.Lock()
        self._width = max(map(len, names), default=0)
        coloured = stream.isatty() and not os.environ.get("NO_COLOR")
        self._colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} if coloured else {}

    def write(self, name: str, line: str) -> None:
        """Write ``name | line``."""
        prefix = f"{name:<{self._width}} |"
        if name in self._colours:
            prefix = f"\x1b[{self._colours[name]}m{prefix}\x1b[0m"
        self.write_plain(f"{prefix} {line}")

    def write_plain(self, line: str) -> None:
        """Write the line as it is."""
        with self._lock:
            if self._stream is None:
                return
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except BrokenPipeError:  # the reader, such as `head`, has gone; the files go on
                self._stream = None


class ProcessLog:
    """One process's lines, over all its restarts."""

    def __init__(self, name: str, folder: Path, terminal: Terminal) -> None:
        self._name = name
        self._terminal = terminal
        folder.mkdir(parents=True, exist_ok=True)
        self._file = logging.handlers.RotatingFileHandler(
            folder / f"{name}.log", maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
        )

    def write(self, line: str) -> None:
        """Write one line to terminal and file."""
        self._terminal.write(self._name, line)
        self._file.handle(logging.makeLogRecord({"msg": line}))

    def follow(self, stream: IO[bytes]) -> threading.Thread:
        """Copy the stream's lines until it ends, in the thread that is returned started."""
        thread = threading.Thread(target=self._copy, args=(stream,), name=f"log-{self._name}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            # readline with a limit: a process that never ends its line cannot fill the memory
            while line := stream.readline(LONGEST_LINE_BYTES):
                # a process writes what others wrote, too
                self.write(visible(line.decode("utf-8", "replace").rstrip("\r\n")))
