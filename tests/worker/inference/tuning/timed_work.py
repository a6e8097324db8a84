"""Work that takes time on a clock of its own."""

import itertools


class TimedWork:
    """Takes the next of some lengths, and the last one for ever."""

    def __init__(self, *lengths_s: float) -> None:
        self.now_s = 0.0
        self.done = 0
        self._lengths_s = itertools.chain(lengths_s, itertools.repeat(lengths_s[-1]))

    def __call__(self) -> None:
        self.done += 1
        self.now_s += next(self._lengths_s)

    def clock(self) -> float:
        return self.now_s
