"""Takes some of the steps apart: how long their products, attention, adapters and choices take.

Knows neither what a step is nor who computes it; what is asked of it in a step that is not taken apart costs nothing
to speak of.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch

from worker.inference.model.step_part import StepPart

# A prime, so that answers of any one length do not have the same of their steps taken apart again and again.
EVERY: Final = 61

_UNTIMED: Final = nullcontext()


class StepTimer:
    """Measures the parts of one step in ``every``; only one thread may use it.

    A GPU computes behind its caller's back, so a step that is taken apart waits for it where a part begins and ends,
    and has to be computed operation by operation, not from a recorded graph.
    """

    def __init__(
        self, device: torch.device, *, every: int = EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_on = False  # whether the present step is taken apart
        self._device = device
        self._every = every
        self._clock = clock
        self._steps = 0
        self._seconds: dict[StepPart, float] = {}

    def begin(self) -> None:
        """Begin a step."""
        self._steps += 1
        self.is_on = self._steps % self._every == 0
        self._seconds = dict.fromkeys(StepPart, 0.0)

    def end(self) -> dict[StepPart, float] | None:
        """End a step; give the seconds of its parts, None where it was not taken apart."""
        was_on, self.is_on = self.is_on, False
        return self._seconds if was_on else None

    def part(self, part: StepPart) -> AbstractContextManager[None]:
        """Count what is done inside as this part of the step; parts do not lie in one another."""
        return self._timed(part) if self.is_on else _UNTIMED

    @contextmanager
    def _timed(self, part: StepPart) -> Iterator[None]:
        self._wait()
        began_s = self._clock()
        yield
        self._wait()
        self._seconds[part] += self._clock() - began_s

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


NO_TIMER: Final = StepTimer(torch.device("cpu"))  # never on
