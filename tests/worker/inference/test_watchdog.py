"""An engine that hangs, and one that does not."""

import threading

from worker.inference.watchdog import LOOKS, Heartbeat, Watchdog


class ScriptedHeartbeat(Heartbeat):
    """Gives ages in turn, the last one for ever; ``looked_often`` is set after more looks than a stall takes."""

    def __init__(self, *ages_s: float) -> None:
        super().__init__(stall_s=0.01)
        self._ages_s = list(ages_s)
        self._looks = 0
        self.looked_often = threading.Event()

    @property
    def age_s(self) -> float:
        self._looks += 1
        if self._looks > 3 * LOOKS:
            self.looked_often.set()
        return self._ages_s.pop(0) if len(self._ages_s) > 1 else self._ages_s[0]


def test_a_step_that_takes_too_long_ends_the_process_with_an_error() -> None:
    ended, statuses = threading.Event(), []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    watchdog = Watchdog(ScriptedHeartbeat(0.0, 0.009, 0.02), end)
    watchdog.start()
    assert ended.wait(timeout=30)
    watchdog.stop()
    assert statuses == [1]


def test_an_idle_or_busy_engine_is_left_alone() -> None:
    heartbeat = ScriptedHeartbeat(0.0, 0.01, 0.0, 0.005)
    statuses: list[int] = []
    watchdog = Watchdog(heartbeat, statuses.append)
    watchdog.start()
    assert heartbeat.looked_often.wait(timeout=30)
    watchdog.stop()
    assert statuses == []


def test_only_a_step_has_an_age() -> None:
    heartbeat = Heartbeat(stall_s=60)
    assert heartbeat.age_s == 0
    heartbeat.beat()
    assert heartbeat.age_s > 0
    assert not heartbeat.is_stalled
    heartbeat.rest()
    assert heartbeat.age_s == 0
