import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scoring.statistics import p_values
from core.scoring.statistics.bootstrap import Bootstrap
from core.scoring.statistics.p_values import apart_p, holm, mcnemar_mid_p, sign_flip_p


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemars_mid_p_is_exact(better: int, worse: int) -> None:
    differing, fewer = better + worse, min(better, worse)
    below = sum(math.comb(differing, count) for count in range(fewer))
    exact = (2 * below + math.comb(differing, fewer)) / 2**differing
    assert mcnemar_mid_p(better, worse) == pytest.approx(min(1, exact), rel=1e-9)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (0, 5), (12, 3), (40, 60), (3000, 3200)])
def test_it_is_scipys_exact_test_less_half_of_what_was_seen(better: int, worse: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy, which our few lines are held against, is not installed")
    fewer, differing = min(better, worse), better + worse
    exact = stats.binomtest(fewer, differing).pvalue if differing else 1.0
    expected = min(1.0, exact - stats.binom.pmf(fewer, differing, 0.5)) if differing else 1.0
    assert mcnemar_mid_p(better, worse) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_random_signs_find_what_scipys_permutations_find(shift: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy, which our few lines are held against, is not installed")
    differences = np.random.default_rng(6).standard_normal(60) + shift
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=50_000, rng=np.random.default_rng(1)
    ).pvalue
    assert sign_flip_p(differences, 50_000, 0) == pytest.approx(expected, abs=0.01)


def test_differences_that_are_all_0_or_one_alone_prove_nothing() -> None:
    assert sign_flip_p(np.zeros(50), 100, 0) == 1
    assert sign_flip_p(np.array([3.0]), 100, 0) == 1


def test_random_signs_are_the_same_however_many_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(8).standard_normal(64) + 0.2
    whole = sign_flip_p(differences, 1000, 3)
    monkeypatch.setattr(p_values, "DRAWS_AT_ONCE", 64 * 8)
    assert sign_flip_p(differences, 1000, 3) == whole


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
def test_being_apart_is_tested_by_two_one_sided_t_tests(margin: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy, which our few lines are held against, is not installed")
    differences = np.random.default_rng(7).standard_normal(90) + 0.05
    expected = max(
        stats.ttest_1samp(differences, end, alternative=way).pvalue
        for end, way in ((-margin, "greater"), (margin, "less"))
    )
    assert apart_p(Bootstrap(differences, np.ones(90)), margin) == pytest.approx(expected, rel=1e-9)


def test_constant_differences_are_apart_or_not() -> None:
    constant = Bootstrap(np.full(9, 0.1), np.ones(9))
    assert apart_p(constant, 0.2) == 0
    assert apart_p(constant, 0.05) == 1


def test_holms_own_example() -> None:
    """Holm 1979, and R's p.adjust of the same numbers."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.001, 0.5]) == pytest.approx([0.08, 0.003, 0.5])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=10))
def test_it_never_makes_a_p_value_smaller_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)
