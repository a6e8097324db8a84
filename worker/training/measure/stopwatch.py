"""Where a run's time goes, by phase. Reports to nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from core.estimates.estimate import Seconds

Phase = Literal["starting", "rendering", "loading", "training", "evaluating", "sampling", "saving"]


class Stopwatch:
    """Adds up seconds; at any moment one phase runs, and the first is ``starting``."""

    def __init__(self, *, began_s_ago: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: Phase = "starting"
        self._since_s = clock() - began_s_ago
        self._spent_s: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)

    def enter(self, phase: Phase) -> None:
        """End the present phase and begin another one."""
        now_s = self._clock()
        self._spent_s[self._phase] += now_s - self._since_s
        self._phase, self._since_s = phase, now_s

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Interrupt the present phase by another one."""
        interrupted = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(interrupted)

    def read(self) -> Seconds:
        """Give the seconds so far."""
        self.enter(self._phase)
        return Seconds(total=sum(self._spent_s.values()), **self._spent_s)
