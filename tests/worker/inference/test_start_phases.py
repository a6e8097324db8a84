"""A start's phase and its time, and that a phase which hangs is seen."""

from tests.harness.fake_clock import FakeClock
from worker.inference.start_phases import StartPhases


def test_the_phase_under_way_is_said_with_its_time() -> None:
    clock = FakeClock()
    phases = StartPhases(600, clock=clock)
    assert str(phases) == "starting for 0 s"
    clock.now_s += 2
    phases.enter("loading weights")
    clock.now_s += 4
    assert str(phases) == "loading weights for 4 s"
    phases.enter("timing steps", at_most_s=10)
    clock.now_s += 3
    assert str(phases) == "timing steps (3 of at most 10 s)"


def test_a_phase_that_takes_too_long_is_seen_and_a_start_that_is_over_is_not() -> None:
    phases = StartPhases(0.0)
    assert phases.heartbeat.is_stalled
    phases.enter("loading weights")
    assert phases.heartbeat.is_stalled
    phases.end()
    assert not phases.heartbeat.is_stalled
    assert phases.is_over


def test_each_phase_has_the_limit_for_itself() -> None:
    phases = StartPhases(600)
    before_s = phases.heartbeat.age_s
    phases.enter("loading weights")
    assert phases.heartbeat.age_s < before_s + 600
    assert not phases.heartbeat.is_stalled
