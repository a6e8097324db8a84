from tests.harness.fake_clock import FakeClock
from worker.training.measure.stopwatch import Stopwatch


def test_every_second_belongs_to_one_phase() -> None:
    clock = FakeClock(100.0)
    stopwatch = Stopwatch(began_s_ago=5, clock=clock)
    clock.now_s += 1
    stopwatch.enter("training")
    clock.now_s += 10
    with stopwatch.within("evaluating"):
        clock.now_s += 20
    clock.now_s += 30
    seconds = stopwatch.read()
    assert (seconds.starting, seconds.training, seconds.evaluating) == (6, 40, 20)
    assert seconds.total == 66


def test_reading_it_does_not_stop_it() -> None:
    clock = FakeClock(100.0)
    stopwatch = Stopwatch(clock=clock)
    clock.now_s += 1
    assert stopwatch.read().total == 1
    clock.now_s += 1
    assert stopwatch.read().total == 2


def test_a_phase_that_fails_gives_the_clock_back() -> None:
    clock = FakeClock(100.0)
    stopwatch = Stopwatch(clock=clock)
    stopwatch.enter("training")
    try:
        with stopwatch.within("saving"):
            clock.now_s += 1
            raise OSError
    except OSError:
        clock.now_s += 2
    seconds = stopwatch.read()
    assert (seconds.saving, seconds.training) == (1, 2)
