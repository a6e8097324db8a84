from collections.abc import Iterator

import pytest

from worker.training.measure.step_times import StepTimes


def _times(*readings: float) -> StepTimes:
    clock: Iterator[float] = iter(readings)
    return StepTimes(clock=lambda: next(clock))


def test_a_part_that_comes_again_is_added_up() -> None:
    times = _times(0.0, 1.0, 3.0, 3.0, 4.0, 4.0, 4.5)
    with times.within("forward"):
        pass
    with times.within("backward"):
        pass
    with times.within("forward"):
        pass
    assert times.read() == {"data": 0.0, "forward": 2.5, "backward": 1.0, "optimizer": 0.0}


def test_the_whole_step_holds_what_belongs_to_no_part() -> None:
    times = _times(10.0, 11.0, 12.0, 15.0)
    with times.within("data"):
        pass
    assert times.total_s == 5.0
    assert sum(times.read().values()) == 1.0


def test_a_part_that_is_cut_off_by_an_error_counts_too() -> None:
    times = _times(0.0, 1.0, 4.0)
    with pytest.raises(RuntimeError), times.within("data"):
        raise RuntimeError
    assert times.read()["data"] == 3.0
