"""Student's t distribution, and the power of a test by it."""

import math

import pytest

from core.scoring.statistics import student

stats = pytest.importorskip("scipy.stats", reason="SciPy, which our few lines are held against, is not installed")
DEGREES = (1, 2, 3, 7, 30, 99, 1000, 100_000)


@pytest.mark.parametrize("degrees", DEGREES)
def test_the_distribution_and_its_quantiles_are_scipys(degrees: int) -> None:
    for t in (-50.0, -2.5, -0.1, 0.0, 0.3, 1.9, 12.0):
        assert student.cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), rel=1e-8, abs=1e-14)
    for probability in (0.0001, 0.025, 0.4, 0.6, 0.8, 0.975, 0.9999):
        assert student.quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-7)


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("shift", [0.5, 2.0, 3.0, 6.0])
def test_the_power_of_a_test_is_that_of_the_noncentral_distribution(degrees: int, shift: float) -> None:
    critical = stats.t.ppf(0.975, degrees)
    expected = stats.nct.sf(critical, degrees, shift) + stats.nct.sf(critical, degrees, -shift)
    assert student.power(shift, degrees, 0.05) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("degrees", DEGREES)
def test_what_is_just_detectable_is_found_as_often_as_wanted(degrees: int) -> None:
    shift = student.detectable_shift(degrees, 0.05, 0.8)
    assert student.power(shift, degrees, 0.05) == pytest.approx(0.8, abs=1e-9)


@pytest.mark.parametrize("size", [5.0, 2.0, 1.0, 0.6, 0.5, 0.3, 0.1, 0.02])
def test_as_many_observations_as_are_needed_and_not_one_less_find_a_difference(size: float) -> None:
    count = student.count_needed(size, 0.05, 0.8)
    assert count is not None
    assert student.power(size * math.sqrt(count), count - 1, 0.05) >= 0.8 - 1e-6
    if count > 2:
        fewer = count - (1 if count <= 30 else 2)  # the formula for many is right to one
        assert student.power(size * math.sqrt(fewer), fewer - 1, 0.05) < 0.8


def test_no_number_of_observations_that_anyone_has_finds_next_to_nothing() -> None:
    assert student.count_needed(1e-7, 0.05, 0.8) is None
