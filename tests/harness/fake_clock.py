"""A clock that goes when a test moves it."""


class FakeClock:
    """Stands for `time.monotonic` and its like. Tests add to ``now_s``."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
