"""How far another training of the same kind could end from those that were made: Student's interval over seeds."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from core.scoring.statistics import student
from core.scoring.statistics.bootstrap import Interval


def interval_of_mean(values: Sequence[float], level: float) -> Interval:
    """Give the interval that holds the mean of all seeds there could be, by those of at least two."""
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    half = student.quantile((1 + level) / 2, len(values) - 1) * error
    return Interval(low=mean - half, high=mean + half)
