"""How often something is tried, and that all that was decided is said."""

import itertools
import logging

import pytest
import torch

from worker.inference.autotune import LEAST_TRIES, MOST_TRIES, Autotuner

CPU = torch.device("cpu")


class TimedWork:
    """Takes the next of some lengths on a clock of its own, and the last one for ever."""

    def __init__(self, *lengths_s: float) -> None:
        self.now_s = 0.0
        self.done = 0
        self._lengths_s = itertools.chain(lengths_s, itertools.repeat(lengths_s[-1]))

    def __call__(self) -> None:
        self.done += 1
        self.now_s += next(self._lengths_s)

    def clock(self) -> float:
        return self.now_s


def test_the_shortest_of_the_tries_counts() -> None:
    work = TimedWork(9.0, 5.0, 2.0, 4.0)
    assert Autotuner(CPU, trial_s=18, budget_s=100, clock=work.clock).fastest_s(work) == 2.0
    assert work.done == 4


@pytest.mark.parametrize(("length_s", "tries"), [(0.001, MOST_TRIES), (0.25, 4), (50.0, LEAST_TRIES)])
def test_slow_work_is_done_less_often(length_s: float, tries: int) -> None:
    work = TimedWork(length_s)
    Autotuner(CPU, trial_s=1.0, budget_s=100, clock=work.clock).fastest_s(work)
    assert work.done == tries


def test_what_comes_after_the_budget_is_used_is_tried_twice() -> None:
    work = TimedWork(1.0)
    tuner = Autotuner(CPU, trial_s=4.0, budget_s=5.0, clock=work.clock)
    done = []
    for _ in range(3):
        tuner.fastest_s(work)
        done.append(work.done)
    assert done == [4, 4 + LEAST_TRIES, 4 + LEAST_TRIES + 2]


def test_all_that_was_decided_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    tuner = Autotuner(CPU)
    tuner.decide("kernels", "native")
    tuner.decide("rows", 8)
    with caplog.at_level(logging.INFO):
        tuner.log()
    assert caplog.messages == ["tuned by 0.0 s of trials: kernels: native; rows: 8"]
