import pytest

from core.jobs.learning_rate import LrSchedulerType, Schedule, usual_warmup_steps

KINDS: tuple[LrSchedulerType, ...] = ("linear", "cosine", "constant")


def _factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step) for step in range(schedule.total_steps)]


def test_linear_rises_then_falls_in_lines() -> None:
    factors = _factors(Schedule(100))
    assert factors[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert factors[-1] == pytest.approx(1 / 95)
    assert factors[5:] == sorted(factors[5:], reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    factors = _factors(Schedule(100, "cosine", 0.0))
    assert (factors[0], factors[25], factors[50]) == pytest.approx((1.0, 0.5 + 0.5 * 0.5**0.5, 0.5))


def test_constant_stays_at_the_peak_once_it_is_warm() -> None:
    assert _factors(Schedule(8, "constant", 0.25)) == pytest.approx([1 / 3, 2 / 3] + [1.0] * 6)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (9, 0), (20, 2), (50, 5), (160, 5), (1000, 30)])
def test_usually_warms_up_for_three_percent_within_limits(total: int, warmup: int) -> None:
    assert usual_warmup_steps(total) == warmup
    assert _factors(Schedule(total)).index(1.0) == warmup


@pytest.mark.parametrize(("ratio", "warmup"), [(0.0, 0), (0.04, 2), (0.5, 25), (0.999, 49)])
def test_a_given_ratio_is_of_all_steps_but_leaves_one(ratio: float, warmup: int) -> None:
    assert Schedule(50, warmup_ratio=ratio).warmup_steps == warmup


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [None, 0.0, 0.5, 0.9])
def test_no_step_is_wasted_on_rate_zero_or_is_over_the_peak(kind: LrSchedulerType, ratio: float | None) -> None:
    for total in (1, 3, 7, 300):
        assert all(0 < factor <= 1 for factor in _factors(Schedule(total, kind, ratio)))


@pytest.mark.parametrize(("kind", "theirs"), [("linear", "linear"), ("cosine", "cosine")])
def test_falls_as_in_transformers(kind: LrSchedulerType, theirs: str) -> None:
    """Warm-up differs by design: theirs begins with a step at rate 0."""
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler  # the core knows no model library; only this test compares

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=4, num_training_steps=40)
    expected = []
    for _ in range(40):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert _factors(Schedule(40, kind, 0.1))[4:] == pytest.approx(expected[4:])
