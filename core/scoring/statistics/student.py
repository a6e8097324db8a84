"""Student's t distribution and the power of a test by it, in the few lines that scipy would otherwise be needed for."""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np

_TINY: Final = 1e-300
_TERMS: Final = 10_000  # of the continued fraction, which needs about the square root of the degrees of freedom
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)
_EXACT: Final = 30
_SPREADS: Final = 8  # of the distribution of a standard deviation that are integrated over


def cdf(t: float, degrees: float) -> float:
    """Give the probability of a value up to ``t``."""
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: float) -> float:
    """Give the value up to which a share of the probability lies, strictly between 0 and 1, by bisection."""
    if probability < 0.5:
        return -quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def power(shift: float, degrees: int, level: float) -> float:
    """Give how often a two-sided t test finds a true difference of ``shift`` standard errors.

    The noncentral t distribution, integrated over the standard deviation that a sample happens to have.
    """
    critical = quantile(1 - level / 2, degrees)
    spread = 1 / math.sqrt(2 * degrees)
    low, high = max(0.0, 1 - _SPREADS * spread), 1 + _SPREADS * spread
    sizes = low + (high - low) * (_NODES + 1) / 2  # of the sample's standard deviation, over the true one
    with np.errstate(divide="ignore"):
        logs = (degrees - 1) * np.log(sizes) - degrees * sizes**2 / 2
    constant = math.log(2) + degrees / 2 * math.log(degrees / 2) - math.lgamma(degrees / 2)
    density = np.exp(constant + logs) * _WEIGHTS * (high - low) / 2
    found = [_normal_tail(critical * size - shift) + _normal_tail(critical * size + shift) for size in sizes]
    return float(density @ np.array(found))


@lru_cache(maxsize=4096)
def detectable_shift(degrees: int, level: float, wanted_power: float) -> float:
    """Give the smallest true difference, in standard errors, that a t test finds as often as wanted."""
    low, high = 0.0, 4.0
    while power(high, degrees, level) < wanted_power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, degrees, level) < wanted_power else (low, middle)
    return (low + high) / 2


def count_needed(size: float, level: float, wanted_power: float) -> int | None:
    """Give how many observations find a true difference of ``size`` standard deviations; None: over a thousand million.

    Up to `_EXACT` by `detectable_shift`; beyond by the normal's formula with its correction for Student's t, which is
    then right to one (Guenther 1981).
    """
    for count in range(2, _EXACT + 1):
        if detectable_shift(count - 1, level, wanted_power) / math.sqrt(count) <= size:
            return count
    z = NormalDist().inv_cdf(1 - level / 2)
    needed = ((z + NormalDist().inv_cdf(wanted_power)) / size) ** 2 + z * z / 2 if size > 1e-5 else math.inf
    return math.ceil(needed) if needed < 1e9 else None


def _normal_tail(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Give the regularised incomplete beta function by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - math.log(a)
    fraction, c, d = 1.0, 1.0, 0.0
    for term in range(_TERMS):
        m = term // 2
        if term == 0:
            step = 1.0
        elif term % 2 == 0:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + step * d or _TINY)
        c = 1 + step / c or _TINY
        fraction *= c * d
        if term and abs(c * d - 1) < 1e-15:
            break
    return math.exp(front) * (fraction - 1)
