"""How long something takes on a device: the shortest of a few tries. Knows neither what is tried nor what for."""

import time
from collections.abc import Callable
from typing import Final

import torch

TRIAL_S: Final = 0.1
LEAST_TRIES: Final = 3  # the first also sets up
MOST_TRIES: Final = 8


class TrialTimer:
    """Times work on one device; ``look`` is called before each try, and ends a trial by raising."""

    def __init__(
        self,
        device: torch.device,
        *,
        trial_s: float = TRIAL_S,
        most_tries: int = MOST_TRIES,
        clock: Callable[[], float] = time.perf_counter,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self._device = device
        self._trial_s = trial_s
        self._most_tries = most_tries
        self._clock = clock
        self._look = look

    def fastest_s(self, work: Callable[[], object]) -> float:
        """Give the shortest of some times that ``work`` takes, until it is done on the device.

        It is done three times at least, and again until a trial's time is used.
        """
        tries: list[float] = []
        first_s = ended_s = self._clock()
        while len(tries) < LEAST_TRIES or (len(tries) < self._most_tries and ended_s < first_s + self._trial_s):
            self._look()
            began_s = self._clock()
            work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            ended_s = self._clock()
            tries.append(ended_s - began_s)
        return min(tries)
