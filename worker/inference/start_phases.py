"""What an engine's start is at, since when, and when that takes too long. Whoever enters a phase names it."""

import logging
import time
from collections.abc import Callable

from worker.inference.watchdog import Heartbeat

logger = logging.getLogger(__name__)


class StartPhases:
    """The phases of one start; one thread enters them, and any may ask.

    Attributes:
        heartbeat: of the phase under way; it stands still once the start is over.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; a phase may take ``limit_s`` seconds."""
        self.heartbeat = Heartbeat(limit_s)
        self._clock = clock
        self._is_over = False
        self._name, self._began_s = "starting", clock()
        self._at_most_s: float | None = None
        self.heartbeat.beat()

    def enter(self, name: str, *, at_most_s: float | None = None) -> None:
        """Begin a phase, which ends the one before; ``at_most_s`` is what it keeps to by itself."""
        logger.info("start: %s", name)
        self._name, self._began_s, self._at_most_s = name, self._clock(), at_most_s
        self.heartbeat.beat()

    def end(self) -> None:
        """Tell that the start is over."""
        self._is_over = True
        self.heartbeat.rest()

    @property
    def is_over(self) -> bool:
        return self._is_over

    def __str__(self) -> str:
        """Say the phase and its time, as in "loading weights for 4 s"."""
        age_s = self._clock() - self._began_s
        if self._at_most_s is None:
            return f"{self._name} for {age_s:.0f} s"
        return f"{self._name} ({age_s:.0f} of at most {self._at_most_s:.0f} s)"
