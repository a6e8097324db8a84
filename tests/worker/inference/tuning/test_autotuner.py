"""The budget ends trials, a busy machine decides nothing, and what was decided is not tried again."""

import gc
import logging
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from tests.harness.fake_clock import FakeClock
from worker.inference.tuning.autotuner import BUDGET_S, FIRST_IDLE_S, LONGEST_IDLE_S, Autotuner, Trial
from worker.inference.tuning.memory import TuningMemory
from worker.inference.tuning.trial_timer import LEAST_TRIES, TrialTimer

KIND: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=100)])
DEFAULT = 1


@dataclass
class Bench:
    """Trials on a clock that goes by what is tried; all decide for their number of tries."""

    folder: Path
    key: str = "this machine"
    clock: FakeClock = field(default_factory=FakeClock)
    waited_s: float = 0.0
    waits: float = 0.0  # of each second that is tried
    used: dict[str, list[int]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)

    def tuner(self, **lengths_s: float) -> Autotuner:
        """Make a tuner of trials by their names, whose tries take so long."""
        trials = [self._trial(name, length_s) for name, length_s in lengths_s.items()]
        memory = TuningMemory(self.folder, {"machine": self.key})
        return Autotuner(trials, memory, torch.device("cpu"), clock=self.clock, waited=lambda: self.waited_s)

    def _trial(self, name: str, length_s: float) -> Trial[int]:
        def work() -> None:
            self.tries[name] = self.tries.get(name, 0) + 1
            self.clock.now_s += length_s
            self.waited_s += length_s * self.waits

        def find(timer: TrialTimer) -> int:
            timer.fastest_s(work)
            return self.tries[name]

        return Trial(name, KIND, DEFAULT, find, self.used.setdefault(name, []).append)


def start(tuner: Autotuner) -> None:
    """Do what an engine does at its start."""
    tuner.recall()
    tuner.try_left()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "tuning")


def test_what_is_tried_holds_after_its_default(bench: Bench) -> None:
    tuner = bench.tuner(rows=0.2, budget=0.2)
    start(tuner)
    assert bench.used == {"rows": [DEFAULT, LEAST_TRIES], "budget": [DEFAULT, LEAST_TRIES]}
    assert tuner.undecided == ()
    assert tuner.idle_s is None


def test_the_budget_ends_trials_and_the_log_names_what_has_its_default(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    began_s = bench.clock.now_s
    tuner = bench.tuner(rows=1.0, budget=4.0, probe=1.0)
    start(tuner)
    assert tuner.undecided == ("budget", "probe")
    assert bench.used == {"rows": [DEFAULT, LEAST_TRIES], "budget": [DEFAULT], "probe": [DEFAULT]}
    assert bench.clock.now_s - began_s <= BUDGET_S + 4.0  # one try more at most
    assert "probe" not in bench.tries
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"the {BUDGET_S:g} s for trials are used" in message
    assert f"budget: {DEFAULT}; probe: {DEFAULT}" in message
    assert "rows" not in message


def test_a_hundred_slow_trials_take_no_longer_than_one_budget(bench: Bench) -> None:
    began_s = bench.clock.now_s
    start(bench.tuner(**{f"trial {number}": 0.5 for number in range(100)}))
    assert bench.clock.now_s - began_s <= BUDGET_S + 0.5


def test_a_second_start_tries_nothing(bench: Bench) -> None:
    start(bench.tuner(rows=0.2, budget=0.2))
    again = Bench(bench.folder)
    start(again.tuner(rows=0.2, budget=0.2))
    assert again.tries == {}
    assert again.used == {"rows": [LEAST_TRIES], "budget": [LEAST_TRIES]}


def test_a_second_start_tries_only_what_was_left_and_forgets_nothing(bench: Bench) -> None:
    start(bench.tuner(rows=1.0, budget=8.0))
    second = Bench(bench.folder)
    start(second.tuner(rows=1.0, budget=0.2))
    assert set(second.tries) == {"budget"}
    third = Bench(bench.folder)
    start(third.tuner(rows=1.0, budget=0.2))
    assert third.tries == {}


def test_another_machine_tries_for_itself(bench: Bench) -> None:
    start(bench.tuner(rows=0.2))
    other = Bench(bench.folder, key="another machine")
    start(other.tuner(rows=0.2))
    assert other.tries == {"rows": LEAST_TRIES}


@pytest.mark.parametrize("value", [101, -1, "many", None, 1.5])
def test_a_remembered_value_that_cannot_be_right_is_tried_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    TuningMemory(bench.folder, {"machine": bench.key}).write({"rows": value})
    start(bench.tuner(rows=0.2))
    assert bench.used == {"rows": [DEFAULT, LEAST_TRIES]}
    assert "rows" in next(message for message in caplog.messages if "cannot be right" in message)


def test_a_busy_machine_decides_nothing_and_nothing_of_it_is_remembered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.waits = 0.5
    began_s = bench.clock.now_s
    tuner = bench.tuner(rows=0.2, budget=0.2)
    start(tuner)
    assert bench.used == {"rows": [DEFAULT], "budget": [DEFAULT]}
    assert bench.tries == {"rows": 1}  # seen at once: there is no sense in the rest
    assert bench.clock.now_s - began_s < 1
    assert TuningMemory(bench.folder, {"machine": bench.key}).read() == {}
    [message] = caplog.messages
    assert "the machine is busy" in message
    assert "rows: 1; budget: 1" in message


def test_a_trial_that_was_disturbed_at_its_last_try_decides_nothing(bench: Bench) -> None:
    tuner = bench.tuner(rows=0.2)
    trial: Trial[int] = tuner._left[0]

    def find(timer: TrialTimer) -> int:
        found = trial.find(timer)
        bench.waited_s += 1.0
        return found

    tuner._left[0] = Trial(trial.name, trial.kind, trial.default, find, trial.use)
    start(tuner)
    assert bench.used == {"rows": [DEFAULT]}


def test_what_was_left_is_tried_again_in_a_quiet_moment_and_remembered(bench: Bench) -> None:
    bench.waits = 0.5
    tuner = bench.tuner(rows=0.2, budget=0.2)
    start(tuner)
    bench.waits = 0.0
    assert tuner.idle_s == FIRST_IDLE_S
    tuner.try_again(lambda: False)
    assert bench.used["rows"][-1] > DEFAULT
    assert tuner.undecided == ()
    assert set(TuningMemory(bench.folder, {"machine": bench.key}).read()) == {"rows", "budget"}


def test_a_request_ends_a_trial_in_an_idle_moment(bench: Bench) -> None:
    bench.waits = 0.5
    tuner = bench.tuner(rows=0.2)
    start(tuner)
    bench.waits, before = 0.0, bench.tries["rows"]
    tuner.try_again(lambda: bench.tries["rows"] > before)
    assert bench.tries["rows"] == before + 1
    assert bench.used == {"rows": [DEFAULT]}


def test_a_trial_that_decides_nothing_lets_go_of_what_it_tried_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []

    def find(timer: TrialTimer) -> int:
        tried_with = torch.ones(8)
        held.append(weakref.ref(tried_with))
        return int(timer.fastest_s(lambda: tried_with.add_(1)))

    tuner = bench.tuner(rows=0.2)
    trial = Trial("memory", KIND, DEFAULT, find, lambda _: None)
    monkeypatch.setattr(tuner, "_left", [trial])
    gc.disable()  # an engine that is idle makes too few objects for it to come by
    try:
        tuner.try_again(lambda: True)
        assert [reference() for reference in held] == [None]
    finally:
        gc.enable()
    assert tuner.undecided == ("memory",)


def test_on_a_machine_that_stays_busy_it_is_tried_ever_more_seldom(bench: Bench) -> None:
    bench.waits = 0.5
    tuner = bench.tuner(rows=0.2)
    start(tuner)
    waits_s = []
    for _ in range(20):
        waits_s.append(tuner.idle_s)
        tuner.try_again(lambda: False)
    assert waits_s[:3] == [FIRST_IDLE_S, 2 * FIRST_IDLE_S, 4 * FIRST_IDLE_S]
    assert waits_s[-1] == LONGEST_IDLE_S


def test_all_that_was_decided_is_said_in_one_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        start(bench.tuner(rows=0.2, budget=0.2))
    assert caplog.messages == ["found by 1.2 s of trials: rows: 3; budget: 3"]
