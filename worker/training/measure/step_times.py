"""Where the time of one optimizer step goes: its parts, each measured where it happens.

These are the process's own times. A GPU is only given its work in them and is waited for where a number is
read back, so its backward pass shows in the part that waits next; only their sum is the GPU's time too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Part = Literal["data", "forward", "backward", "optimizer"]


class StepTimes:
    """Adds up the seconds of a step's parts, which do not overlap. The step begins where this is made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._spent_s: dict[Part, float] = dict.fromkeys(get_args(Part), 0.0)

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """Count what the context takes as this part's."""
        began_s = self._clock()
        try:
            yield
        finally:
            self._spent_s[part] += self._clock() - began_s

    @property
    def total_s(self) -> float:
        """Seconds since the step began, those of no part among them."""
        return self._clock() - self._began_s

    def read(self) -> dict[Part, float]:
        """Give the seconds of each part so far."""
        return dict(self._spent_s)
