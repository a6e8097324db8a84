"""How often a verdict is wrong, in worlds of which the truth is known: ten thousand trials, and a few for every day.

The slow tests hold each rate to what is promised; the quick ones, of a few hundred trials, to twice that.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

from core.scoring.statistics.comparison import PairedComparison
from core.scoring.verdict import Word, judge
from tests.core.scoring.statistics.made_up import KINDS, World

FEW, MANY = 150, 10_000
PROMISED = 0.05


def count(world: World, trials: int, counts: Callable[[PairedComparison], bool], margin: float | None = None) -> float:
    """Give the share of trials in which something holds."""
    random = np.random.default_rng(20)
    return sum(counts(world.trial(random, margin)) for _ in range(trials)) / trials


def says(*words: Word) -> Callable[[PairedComparison], bool]:
    return lambda comparison: judge([comparison])[0].word in words


TRIALS = pytest.mark.parametrize(
    ("trials", "slack"), [(FEW, 0.05), pytest.param(MANY, 0.0, marks=pytest.mark.slow)], ids=["few", "many"]
)


@TRIALS
@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_models_one_is_called_better_in_a_twentieth_at_most(kind: str, trials: int, slack: float) -> None:
    assert count(World(kind), trials, says("better", "worse")) <= PROMISED + slack


@TRIALS
@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_methods_one_is_called_better_in_a_twentieth_at_most_though_each_training_differs(
    kind: str, trials: int, slack: float
) -> None:
    world = World(kind, seeds=3, seed_deviation=0.05)
    assert count(world, trials, says("better", "worse")) <= PROMISED + slack


@TRIALS
@pytest.mark.parametrize("kind", ["bounded", "real"])
def test_models_as_far_apart_as_the_margin_are_called_the_same_in_a_twentieth_at_most(
    kind: str, trials: int, slack: float
) -> None:
    world = World(kind, rows=400, shift=0.1)
    assert count(world, trials, says("same"), margin=0.1) <= PROMISED + slack


@TRIALS
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_holds_the_truth(kind: str, trials: int, slack: float) -> None:
    """BCa's alone would in 0.928 of the trials with heavy tails, as those of ``real`` have."""
    share = count(World(kind), trials, lambda found: found.over_rows is not None and found.over_rows.interval.holds(0))
    assert share >= 1 - PROMISED - slack


@TRIALS
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_to_be_detectable_is_found_four_times_in_five(kind: str, trials: int, slack: float) -> None:
    # of so many rows that it hardly depends on which; with a hundredth of them it is ten times as large
    many = World(kind, rows=30_000).trial(np.random.default_rng(21)).over_rows
    assert many is not None
    assert many.detectable is not None
    shift = 10 * many.detectable
    rate = count(World(kind, rows=300, shift=shift), trials, says("better", "worse"))
    assert 0.75 - 2 * slack <= rate <= 0.85 + 2 * slack


@pytest.mark.parametrize("trials", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_of_five_comparisons_of_equal_models_any_is_called_better_in_a_twentieth_at_most(
    trials: int,
) -> None:
    """By a test that is exact, so up to two standard errors of the share that is seen."""
    random = np.random.default_rng(22)
    wrong = 0
    for _ in range(trials):
        verdicts = judge([World("bounded").trial(random) for _ in range(5)])
        wrong += any(verdict.word in ("better", "worse") for verdict in verdicts)
    assert wrong / trials <= PROMISED + 2 * math.sqrt(PROMISED * (1 - PROMISED) / trials)
