"""How a trainer learns that it is told to stop, and gets out of whatever it is doing."""

import signal
import threading
from collections.abc import Callable

CheckStop = Callable[[], None]
"""Called between micro-batches; raises `Stopped` when the trainer is told to stop."""


class Stopped(Exception):
    """The trainer was told to stop; caught where the last checkpoint is written."""


class StopSignal:
    """SIGTERM and SIGINT, seen only where the loop looks, so that no operation is cut in two."""

    def __init__(self) -> None:
        self._received = threading.Event()

    def listen(self) -> None:
        """Install the handlers; only the main thread can."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._received.set())

    def check(self) -> None:
        """Return unless the process was told to stop.

        Raises:
            Stopped: it was.
        """
        if self._received.is_set():
            raise Stopped
