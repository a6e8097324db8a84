"""Trials at an engine's start, before requests come: one clock, one budget of seconds, one record of what was decided.

Knows neither what is tried nor how the times decide: that lies with what is tried. ``building`` has the sequence.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

import torch

logger = logging.getLogger(__name__)

BUDGET_S: Final = 5.0  # for all that one start times; where steps are slow, what comes late is tried less often
TRIAL_S: Final = 0.1
LEAST_TRIES: Final = 3  # the first also sets up
MOST_TRIES: Final = 8


class Autotuner:
    """What one engine tries when it starts.

    Attributes:
        decisions: what was chosen, by what it was chosen for, in the order in which that was.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        trial_s: float = TRIAL_S,
        most_tries: int = MOST_TRIES,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.decisions: dict[str, str] = {}
        self._device = device
        self._trial_s = trial_s
        self._most_tries = most_tries
        self._budget_s = budget_s
        self._clock = clock
        self._spent_s = 0.0

    def fastest_s(self, work: Callable[[], object]) -> float:
        """Give the shortest of some times that ``work`` takes, until it is done on the device.

        It is done again until a trial's time or the whole budget is used: three times at least, and twice at least
        where the budget was used before.
        """
        least = LEAST_TRIES if self._spent_s < self._budget_s else 2
        tries: list[float] = []
        first_s = ended_s = self._clock()
        ends_s = first_s + min(self._trial_s, self._budget_s - self._spent_s)
        while len(tries) < least or (len(tries) < self._most_tries and ended_s < ends_s):
            began_s = self._clock()
            work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            ended_s = self._clock()
            tries.append(ended_s - began_s)
        self._spent_s += ended_s - first_s
        return min(tries)

    def decide(self, what: str, chosen: object) -> None:
        """Keep what was chosen, for the log."""
        self.decisions[what] = str(chosen)

    def log(self) -> None:
        """Say everything that was decided, in one line."""
        said = "; ".join(f"{what}: {chosen}" for what, chosen in self.decisions.items())
        logger.info("tuned by %.1f s of trials: %s", self._spent_s, said)
