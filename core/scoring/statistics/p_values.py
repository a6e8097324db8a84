"""P-values: that two models do not differ, that they are further apart than a margin, and those of many comparisons."""

import math
from collections.abc import Sequence

import numpy as np

from core.scoring.statistics import student
from core.scoring.statistics.bootstrap import DRAWS_AT_ONCE, Bootstrap, Numbers


def mcnemar_mid_p(better: int, worse: int) -> float:
    """Give the two-sided mid-p-value of so many rows on which one model was better and so many on which it was worse.

    Exact McNemar is a sign test of the rows that differ; mid-p counts what was seen half, and is less cautious while it
    keeps to its level in all but rare cases (Fagerland, Lydersen and Laake 2013). No row that differs: 1.
    """
    differing, fewer = better + worse, min(better, worse)

    def probability(count: int) -> float:
        logarithm = math.lgamma(differing + 1) - math.lgamma(count + 1) - math.lgamma(differing - count + 1)
        return math.exp(logarithm - differing * math.log(2))

    below = math.fsum(probability(count) for count in range(fewer))
    return min(1.0, 2 * below + probability(fewer))


def sign_flip_p(differences_C: Numbers, resamples: int, seed: int) -> float:
    """Give the two-sided p-value against two models that might as well change places, cluster by cluster.

    Fisher's randomisation of paired differences, by random signs: exact whatever the differences' distribution, which
    BCa's ends are not where they have heavy tails. C is the axis of clusters.
    """
    random = np.random.default_rng(seed)
    seen = abs(differences_C.sum()) * (1 - 1e-12)  # equal sums may be rounded otherwise
    at_once = max(1, DRAWS_AT_ONCE // len(differences_C))
    as_far = 0
    for begin in range(0, resamples, at_once):
        shape = (min(at_once, resamples - begin), len(differences_C))
        sums = (2.0 * random.integers(0, 2, shape, dtype=np.int8) - 1) @ differences_C
        as_far += int(np.count_nonzero(np.abs(sums) >= seen))
    return (as_far + 1) / (resamples + 1)


def apart_p(bootstrap: Bootstrap, margin: float) -> float:
    """Give the p-value against a true mean of at least ``margin`` on either side: small where it is surely nearer to 0.

    The larger of two one-sided t tests over clusters (Schuirmann 1987).
    """
    if not bootstrap.deviation:
        return float(abs(bootstrap.estimate) >= margin)
    error = bootstrap.deviation / math.sqrt(bootstrap.clusters)
    return student.cdf((abs(bootstrap.estimate) - margin) / error, bootstrap.clusters - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Give the p-values of several comparisons so that each can be held against one level (Holm 1979).

    The chance that any of them is found where there is nothing then keeps to that level.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
