"""One step in many is taken apart; in the others nothing is measured."""

from collections.abc import Iterator

import pytest
import torch

from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import NO_TIMER, StepTimer

CPU = torch.device("cpu")


def make_timer(*ticks: float, every: int = 1) -> StepTimer:
    times: Iterator[float] = iter(ticks)
    return StepTimer(CPU, every=every, clock=lambda: next(times))


def test_each_part_is_the_sum_of_its_times() -> None:
    timer = make_timer(0, 1, 10, 12, 20, 24)
    timer.begin()
    for part in (StepPart.LINEAR, StepPart.SAMPLE, StepPart.LINEAR):
        with timer.part(part):
            pass
    assert timer.end() == {StepPart.LINEAR: 5, StepPart.ATTENTION: 0, StepPart.LORA: 0, StepPart.SAMPLE: 2}


def test_only_one_step_in_so_many_is_taken_apart_and_the_others_ask_no_clock() -> None:
    timer = make_timer(*range(4), every=3)
    found = []
    for _ in range(7):
        timer.begin()
        with timer.part(StepPart.LORA):
            pass
        found.append(timer.end())
    assert [parts is not None for parts in found] == [False, False, True, False, False, True, False]
    assert found[2] == found[5] == {StepPart.LINEAR: 0, StepPart.ATTENTION: 0, StepPart.LORA: 1, StepPart.SAMPLE: 0}


def test_a_step_that_failed_leaves_nothing_to_the_next() -> None:
    timer = make_timer(0, 5, 6, 7)
    timer.begin()
    with timer.part(StepPart.LINEAR):
        pass
    with pytest.raises(RuntimeError, match="injected"), timer.part(StepPart.LORA):
        raise RuntimeError("injected")
    timer.begin()
    parts = timer.end()
    assert parts is not None
    assert sum(parts.values()) == 0


def test_outside_of_steps_nothing_is_measured() -> None:
    timer = make_timer()
    with timer.part(StepPart.LINEAR), NO_TIMER.part(StepPart.LINEAR):
        pass
    assert timer.end() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_part_on_a_gpu_lasts_until_the_gpu_has_done_it() -> None:
    device = torch.device("cuda")
    timer = StepTimer(device, every=1)
    timer.begin()
    with timer.part(StepPart.LINEAR):
        torch.cuda._sleep(100_000_000)  # cycles: far longer than it takes to ask for them
        event = torch.cuda.Event()
        event.record()
    assert event.query()
