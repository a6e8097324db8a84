"""What a trainer writes to stdout and stderr: the beginning in a capped file, the end in memory."""

from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final

import structlog

from core.process.logs import visible

MOST_BYTES: Final = 8 * 2**20
_TAIL_BYTES: Final = 4096

_log = structlog.stdlib.get_logger(__name__)


class TrainerLog:
    """One attempt's log. The tail is kept even when the file is full, because it tells why a trainer died."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file = path.open("wb", buffering=0)
        self._left_bytes = most_bytes
        self._most_bytes = most_bytes
        self._tail: deque[int] = deque(maxlen=_TAIL_BYTES)

    def write(self, chunk: bytes) -> None:
        """Add what the trainer wrote."""
        self._tail.extend(chunk)
        if self._left_bytes <= 0:
            return
        try:
            self._file.write(chunk[: self._left_bytes])
            self._left_bytes -= len(chunk)
            if self._left_bytes <= 0:
                self._file.write(f"\n[the log ends here: it reached {self._most_bytes:,} bytes]\n".encode())
        except OSError as error:
            # A disk without room for a log must not end what the trainer itself may bring to its end.
            self._left_bytes = 0
            _log.warning("the trainer's log ends here", reason=str(error))

    def last_lines(self, count: int) -> list[str]:
        """Give the last non-empty lines, oldest first."""
        text = bytes(self._tail).decode("utf-8", "replace")
        return [visible(line) for line in text.splitlines() if line.strip()][-count:]

    def __enter__(self) -> "TrainerLog":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()
