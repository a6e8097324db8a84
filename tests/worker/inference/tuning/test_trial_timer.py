"""How often something is tried."""

import pytest
import torch

from tests.worker.inference.tuning.timed_work import TimedWork
from worker.inference.tuning.trial_timer import LEAST_TRIES, MOST_TRIES, TrialTimer

CPU = torch.device("cpu")


def test_the_shortest_of_the_tries_counts() -> None:
    work = TimedWork(9.0, 5.0, 2.0, 4.0)
    assert TrialTimer(CPU, trial_s=18, clock=work.clock).fastest_s(work) == 2.0
    assert work.done == 4


@pytest.mark.parametrize(("length_s", "tries"), [(0.001, MOST_TRIES), (0.25, 4), (50.0, LEAST_TRIES)])
def test_slow_work_is_done_less_often(length_s: float, tries: int) -> None:
    work = TimedWork(length_s)
    TrialTimer(CPU, trial_s=1.0, clock=work.clock).fastest_s(work)
    assert work.done == tries


def test_what_looks_ends_a_trial_before_the_next_try() -> None:
    work = TimedWork(1.0)

    def look() -> None:
        if work.now_s > 1.5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        TrialTimer(CPU, clock=work.clock, look=look).fastest_s(work)
    assert work.done == 2
