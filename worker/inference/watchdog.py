"""When a step takes too long, and the end of the process then: no exception comes of it, and a thread cannot be ended.

Knows how long a step takes, not what it does. A loop that dies tells so itself.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

LOOKS: Final = 10  # in the time that a step may take


class Heartbeat:
    """The age of the step under way; one thread beats, and any may ask. More than ``stall_s`` is too long."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._beat_s: float | None = None  # None while there is nothing to do

    def beat(self) -> None:
        """Tell that a step begins."""
        self._beat_s = time.monotonic()

    def rest(self) -> None:
        """Tell that there is nothing to do until the next beat."""
        self._beat_s = None

    @property
    def age_s(self) -> float:
        """How long the step under way has taken; 0 when there is nothing to do."""
        beat_s = self._beat_s
        return 0.0 if beat_s is None else time.monotonic() - beat_s

    @property
    def is_stalled(self) -> bool:
        return self.age_s > self.stall_s


class Watchdog:
    """Looks at a heartbeat in a thread of its own, and calls ``end`` once the step takes too long.

    By default that ends the process at once, with status 1: an orderly end would wait for the step.
    """

    def __init__(
        self, heartbeat: Heartbeat, end: Callable[[int], object] = os._exit, *, what: object = "a step"
    ) -> None:
        """``what`` says in the log what takes too long."""
        self._heartbeat = heartbeat
        self._what = what
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more; returns once that is sure."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._heartbeat.stall_s / LOOKS):
            if self._heartbeat.is_stalled:
                logger.error(
                    "%s takes longer than the %g s it may; the engine ends", self._what, self._heartbeat.stall_s
                )
                self._end(1)
                return
