"""An engine that has nothing to do tries again what its start could not decide, and requests come first."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from tests.worker.inference.scheduler.loop_harness import LoopHarness
from worker.inference.kv_cache.slots import KvPool
from worker.inference.scheduler import loop
from worker.inference.tuning import autotuner
from worker.inference.tuning.autotuner import Autotuner, Trial
from worker.inference.tuning.memory import TuningMemory
from worker.inference.tuning.trial_timer import TrialTimer

WITHIN_S = 60


@pytest.fixture(autouse=True)
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotuner, "FIRST_IDLE_S", 0.01)
    monkeypatch.setattr(autotuner, "LONGEST_IDLE_S", 0.01)


class DisturbedStart:
    """A tuner whose start is disturbed by others; what it tries afterwards is not."""

    def __init__(self, folder: Path, work: Callable[[], None]) -> None:
        self.found = threading.Event()
        self.threads: list[str] = []
        self.waited_s = 0.0
        self._work = work
        trial = Trial("rows", TypeAdapter(int), 1, self._find, self._use)
        self.tuner = Autotuner(
            [trial], TuningMemory(folder, {}), torch.device("cpu"), waited=lambda: self.waited_s, budget_s=WITHIN_S
        )
        self.used: list[int] = []
        self.tuner.recall()
        self.tuner.try_left()

    def _find(self, timer: TrialTimer) -> int:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) == 1:
            self.waited_s += 1000
        timer.fastest_s(self._work)
        return 2

    def _use(self, value: int) -> None:
        self.used.append(value)
        if value == 2:
            self.found.set()


def test_what_a_busy_start_left_is_decided_in_the_engines_own_thread_when_idle(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    start = DisturbedStart(tmp_path / "tuning", lambda: None)
    assert start.used == [1]
    harness.loop.tune_when_idle(start.tuner)
    harness.loop.start()
    try:
        assert start.found.wait(WITHIN_S)
        assert harness.loop.is_alive
    finally:
        harness.loop.stop()
    assert start.used == [1, 2]
    assert set(start.threads[1:]) == {"scheduler"}


def test_a_request_that_comes_during_a_trial_ends_the_trial_and_is_answered(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    trying, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        trying.set()
        assert may_go_on.wait(WITHIN_S)

    may_go_on.set()
    start = DisturbedStart(tmp_path / "tuning", work)
    trying.clear()
    may_go_on.clear()
    harness.loop.tune_when_idle(start.tuner)
    harness.loop.start()
    try:
        assert trying.wait(WITHIN_S)
        request = harness.submit("abc")
        tried = len(start.threads)
        may_go_on.set()
        assert start.found.wait(WITHIN_S)
    finally:
        harness.loop.stop()
    assert request.reason is not None  # answered before the next idle moment, in which the trial was made anew
    assert len(start.threads) > tried


def test_what_a_trial_took_is_given_back_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(loop, "release_unused_memory", released.set)
    harness = LoopHarness(tmp_path)
    kv, took = harness.runner.kv, []

    def work() -> None:
        slot = kv.allocate(1)
        assert slot is not None
        kv.release(slot)
        took.append(allocated(kv))

    start = DisturbedStart(tmp_path / "tuning", work)
    harness.loop.tune_when_idle(start.tuner)
    harness.loop.start()
    try:
        assert released.wait(WITHIN_S)
    finally:
        harness.loop.stop()
    assert min(took) > 0
    assert allocated(kv) == 0


def allocated(kv: KvPool) -> int:
    return sum(arena.capacity for arena in kv._arenas.values())
