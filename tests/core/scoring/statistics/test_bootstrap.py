"""The bootstrap over clusters of rows."""

from typing import Any

import numpy as np
import pytest

from core.scoring.statistics import bootstrap as module
from core.scoring.statistics import student
from core.scoring.statistics.bootstrap import Bootstrap, Interval, Numbers


def of_rows(values: Numbers, **others: Any) -> Bootstrap:
    return Bootstrap(values, np.ones(len(values)), **others)


@pytest.mark.parametrize("kind", ["normal", "skewed", "binary"])
def test_without_its_widening_the_interval_is_scipys_on_the_same_draws(kind: str) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy, which our few lines are held against, is not installed")
    random = np.random.default_rng(3)
    values = {
        "normal": random.standard_normal(150),
        "skewed": random.lognormal(0, 1, 150),
        "binary": (random.random(150) < 0.2).astype(float),
    }[kind]
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", confidence_level=0.95, n_resamples=10_000, rng=np.random.default_rng(7)
    )
    z = stats.norm.ppf(0.975)
    ours = of_rows(values, seed=7).interval_between(-z, z)
    low, high = theirs.confidence_interval
    # scipy draws all at once; a mean of the same draws may be rounded otherwise
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-9)


def test_its_widening_is_students_and_vanishes_with_many_clusters() -> None:
    random = np.random.default_rng(5)
    for count, at_most in ((8, 1.5), (5000, 1.02)):
        drawn = of_rows(random.standard_normal(count))
        plain, wide = drawn.interval_between(-1.959964, 1.959964), drawn.interval(0.95)
        assert 1 < (wide.high - wide.low) / (plain.high - plain.low) < at_most


def test_rows_of_one_cluster_are_drawn_together() -> None:
    random = np.random.default_rng(1)
    values = random.standard_normal(100)
    alone, copied = of_rows(values), Bootstrap(values * 5, np.full(100, 5.0))
    apart = of_rows(np.repeat(values, 5))
    expected, width, too_narrow = (found.interval(0.95) for found in (alone, copied, apart))
    assert (width.low, width.high) == pytest.approx((expected.low, expected.high))
    assert (too_narrow.high - too_narrow.low) < 0.6 * (width.high - width.low)


def test_a_mean_of_weighted_rows_is_weighted() -> None:
    assert Bootstrap(np.array([3.0, 1.0]), np.array([3.0, 1.0])).estimate == 1.0
    heavy = Bootstrap(np.array([0.0, 9.0]), np.array([1.0, 9.0]), within=(0, 1))
    assert heavy.estimate == 0.9
    assert heavy.interval(0.95) == Interval(low=0, high=1)


def test_an_interval_reaches_as_far_as_students_and_as_far_as_the_drawn_one() -> None:
    """On heavy tails Student's is the longer, on a skew the drawn one at its end."""
    random = np.random.default_rng(9)
    tailed, skewed = random.standard_t(2, 100), random.lognormal(0, 1.2, 60)
    for values in (tailed, skewed):
        found = of_rows(values)
        half = student.quantile(0.975, len(values) - 1) * found.deviation / len(values) ** 0.5
        z = student.quantile(0.975, len(values) - 1) * (len(values) / (len(values) - 1)) ** 0.5
        drawn, interval = found.interval_between(-z, z), found.interval(0.95)
        assert interval.low == min(drawn.low, found.estimate - half)
        assert interval.high == max(drawn.high, found.estimate + half)
    assert of_rows(skewed).interval(0.95).high > of_rows(skewed).estimate * 2 - of_rows(skewed).interval(0.95).low


def test_no_interval_leaves_what_a_mean_can_be() -> None:
    shares = np.array([1.0] * 9 + [0.2])
    found = Bootstrap(shares, np.ones(10), within=(0, 1)).interval(0.95)
    assert found.high == 1.0
    assert Bootstrap(shares, np.ones(10)).interval(0.95).high > 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e-5])
def test_where_all_differences_are_the_same_there_is_nothing_to_draw(value: float) -> None:
    constant = Bootstrap(value * np.arange(1.0, 8.0), np.arange(1.0, 8.0))
    assert constant.interval(0.95) == Interval(low=constant.estimate, high=constant.estimate)
    assert constant.estimate == pytest.approx(value, abs=1e-18)
    assert constant.deviation == 0


def test_equal_seeds_give_equal_intervals_however_many_draws_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).standard_normal(64)
    whole = of_rows(values).interval(0.95)
    assert of_rows(values, seed=1).interval(0.95) != whole
    monkeypatch.setattr(module, "DRAWS_AT_ONCE", 64 * 7)
    assert of_rows(values).interval(0.95) == whole
