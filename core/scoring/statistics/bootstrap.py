"""The bootstrap over clusters of rows: how far a mean could lie from the truth, given which rows happened to be there.

Clusters are drawn with all of their rows, because rows that say nearly the same are no independent witnesses. Knows
sums of clusters only; whose they are is ``core.scoring.statistics.pairs``'.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from core.scoring.registry import Kind
from core.scoring.statistics import student
from core.values import Frozen

LEVEL: Final = 0.95
RESAMPLES: Final = 10_000
SEED: Final = 0
DRAWS_AT_ONCE: Final = 2**21  # in memory at one time: 16 MB of their places and as much of their values
_NORMAL: Final = NormalDist()

# Beside what was seen: a row each way (Bonett and Price 2012), two rows right and two wrong (Agresti and Coull 1998).
# Without them a model that was right on all of ten rows would be held to be right on all there are.
ONE_EACH_WAY: Final = (-1.0, 1.0)
TWO_RIGHT_TWO_WRONG: Final = (0.0, 0.0, 1.0, 1.0)

Numbers = npt.NDArray[np.float64]


class Interval(Frozen):
    """Where the true value lies, as far as these rows tell."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether a value is within it, its ends included."""
        return self.low <= value <= self.high

    def cut(self, smallest: float, largest: float) -> "Interval":
        """Leave out what no value can be; it holds the true one as often as before."""
        return Interval(low=max(self.low, smallest), high=min(self.high, largest))

    def is_within(self, margin: float) -> bool:
        """Tell whether all of it is nearer to 0 than a margin."""
        return -margin < self.low and self.high < margin


@dataclass(frozen=True)
class Bootstrap:
    """The mean of rows, and what it might have been: ratios of sums over clusters that were drawn again.

    Attributes:
        sums_C: of each cluster, its rows' values times their weights.
        weights_C: of each cluster, its rows' weights; above 0.
        resamples, seed: equal ones give equal intervals.
        within: what the mean can be at all; no interval leaves it.

    C is the axis of clusters, of which there are at least two.
    """

    sums_C: Numbers
    weights_C: Numbers
    resamples: int = RESAMPLES
    seed: int = SEED
    within: tuple[float, float] = (-math.inf, math.inf)

    @property
    def clusters(self) -> int:
        return len(self.sums_C)

    @cached_property
    def estimate(self) -> float:
        """The mean itself."""
        return float(self.sums_C.sum() / self.weights_C.sum())

    @cached_property
    def residuals(self) -> Numbers:
        """How far each cluster's sum is from what the mean makes of it, in units of one mean cluster's weight."""
        found: Numbers = (self.sums_C - self.estimate * self.weights_C) / self.weights_C.mean()
        return found

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of one cluster, as it moves the mean; exactly 0 where nothing scatters."""
        return 0.0 if self.is_constant else float(self.residuals.std(ddof=1))

    @cached_property
    def is_constant(self) -> bool:
        """Whether all clusters have the same mean, up to rounding: nothing can be drawn that differs."""
        largest = np.abs(self.sums_C / self.weights_C).max()
        return bool(np.abs(self.residuals).max() <= 1e-12 * largest)

    def interval(self, level: float) -> Interval:
        """Give the interval that holds the true mean with a probability of ``level``.

        From the lower to the upper of the ends of two: BCa (Efron 1987), by the quantiles of Student's t in place of
        the normal's, wider by the root of C / (C - 1), as Hesterberg's expanded percentiles (2015, 1411.5279); and
        Student's own. BCa follows a skew, which Student's does not, and is too narrow on heavy tails, where Student's
        is not.
        """
        if self.is_constant:
            return Interval(low=self.estimate, high=self.estimate)
        t = student.quantile((1 + level) / 2, self.clusters - 1)
        z = t * math.sqrt(self.clusters / (self.clusters - 1))
        drawn, half = self.interval_between(-z, z), t * self.deviation / math.sqrt(self.clusters)
        return Interval(
            low=max(self.within[0], min(drawn.low, self.estimate - half)),
            high=min(self.within[1], max(drawn.high, self.estimate + half)),
        )

    def interval_between(self, z_low: float, z_high: float) -> Interval:
        """Give the plain BCa interval between two quantiles of the normal distribution."""
        low, high = np.quantile(self._means, [self._share_at(z_low), self._share_at(z_high)])
        return Interval(low=float(low), high=float(high))

    def _share_at(self, z: float) -> float:
        """Give the share of drawn means that lies below the end which a normal quantile stands for."""
        shifted = self._bias + z
        flattened = 1 - self._acceleration * shifted
        if flattened <= 0:  # beyond all that can be drawn
            return float(shifted > 0)
        return _NORMAL.cdf(self._bias + shifted / flattened)

    @cached_property
    def _means(self) -> Numbers:
        """The mean of each resample; in memory are never more than some draws of them."""
        random = np.random.default_rng(self.seed)
        means = np.empty(self.resamples)
        are_even = bool((self.weights_C == self.weights_C[0]).all())
        whole = self.weights_C.sum()
        at_once = max(1, DRAWS_AT_ONCE // self.clusters)
        for begin in range(0, self.resamples, at_once):
            drawn = random.integers(0, self.clusters, (min(at_once, self.resamples - begin), self.clusters))
            weights = whole if are_even else self.weights_C[drawn].sum(axis=1)
            means[begin : begin + at_once] = self.sums_C[drawn].sum(axis=1) / weights
        return means

    @cached_property
    def _bias(self) -> float:
        """How far the drawn means' median is from the mean, on the normal's scale."""
        below = np.count_nonzero(self._means < self.estimate) + np.count_nonzero(self._means <= self.estimate)
        share = below / (2 * self.resamples)
        return _NORMAL.inv_cdf(min(max(share, 1 / (self.resamples + 1)), 1 - 1 / (self.resamples + 1)))

    @cached_property
    def _acceleration(self) -> float:
        """How fast the standard error changes with the mean, by leaving out one cluster after the other."""
        without = (self.sums_C.sum() - self.sums_C) / (self.weights_C.sum() - self.weights_C)
        apart = without.mean() - without
        return float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))


def draw_beside(
    beside: Sequence[float],
    kind: Kind,
    sums_C: Numbers,
    weights_C: Numbers,
    resamples: int,
    seed: int,
    within: tuple[float, float],
) -> Bootstrap:
    """Draw clusters again; of a metric that is right or wrong, and of shares that are all alike, with rows beside."""
    seen = Bootstrap(sums_C, weights_C, resamples, seed, within)
    if kind == "binary" or (kind == "bounded" and seen.is_constant):
        weight = weights_C.mean()
        sums_C = np.append(sums_C, np.array(beside) * weight)
        return Bootstrap(sums_C, np.append(weights_C, [weight] * len(beside)), resamples, seed, within)
    return seen
