"""Ends an engine's process when a step hangs: no exception comes of that, and a thread cannot be ended.

Knows when a step is too long, not what it does. A loop that dies tells so itself.
"""

import logging
import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

logger = logging.getLogger(__name__)

LOOKS: Final = 10  # in the time that a step may take


class Beating(Protocol):
    """What is watched."""

    @property
    def last_beat_age_s(self) -> float:
        """How long the step under way has taken; 0 when there is nothing to do."""
        ...


class Watchdog:
    """Looks at an engine in a thread of its own, and calls ``end`` once its step takes longer than ``stall_s``.

    By default that ends the process at once, with status 1: an orderly end would wait for the step.
    """

    def __init__(self, engine: Beating, stall_s: float, end: Callable[[int], object] = os._exit) -> None:
        self._engine = engine
        self._stall_s = stall_s
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
        while not self._stop.wait(self._stall_s / LOOKS):
            age_s = self._engine.last_beat_age_s
            if age_s > self._stall_s:
                logger.error("a step has taken %.0f s, %.0f are allowed; the engine ends", age_s, self._stall_s)
                self._end(1)
                return
