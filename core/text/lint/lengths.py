"""How long the examples of a file are in tokens, in memory that grows with distinct lengths only."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from core.text.lint.findings import LINES_NAMED

Number = TypeVar("Number", int, float)

# Tukey's outer fences ("far out", Exploratory Data Analysis, 1977), on the logarithm because lengths of
# texts are skewed: three interquartile ranges beyond a quartile, which is a factor of (q3 / q1) ** 3.
FENCE_RANGES: Final = 3.0
# Where most lengths are nearly equal the fences lie at the quartiles; only what is twice as far is an outlier then.
LEAST_FACTOR: Final = 2.0


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles: each is a length that occurs."""

    p5: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class Outliers:
    """Examples beyond a fence. ``nearest`` is the length among theirs that is nearest to the others'."""

    nearest: int
    count: int
    lines: tuple[int, ...]


class Lengths:
    """Lengths of many examples, counted one by one."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._lines: dict[int, list[int]] = {}  # the first ones of each length

    def add(self, length: int, line: int) -> None:
        """Count one example."""
        self._counts[length] += 1
        lines = self._lines.setdefault(length, [])
        if len(lines) < LINES_NAMED:
            lines.append(line)

    def percentiles(self) -> Percentiles | None:
        """Give the percentiles; None when there are no examples."""
        if not self._counts:
            return None
        return Percentiles(*(quantile(self._counts, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)))

    def outliers(self) -> tuple[Outliers | None, Outliers | None]:
        """Find what is far shorter and far longer than the others; None where there is nothing."""
        if not self._counts:
            return None, None
        low, high = (max(1, quantile(self._counts, share)) for share in (0.25, 0.75))
        factor = max((high / low) ** FENCE_RANGES, LEAST_FACTOR)
        short = [length for length in self._counts if length < low / factor]
        long = [length for length in self._counts if length > high * factor]
        return self._outliers(short, max(short, default=0)), self._outliers(long, min(long, default=0))

    def _outliers(self, lengths: list[int], nearest: int) -> Outliers | None:
        if not lengths:
            return None
        lines = sorted(line for length in lengths for line in self._lines[length])
        return Outliers(nearest, sum(self._counts[length] for length in lengths), tuple(lines[:LINES_NAMED]))


def quantile(counts: Mapping[Number, int], share: float) -> Number:
    """Give the smallest value that at least ``share`` of all are not above; there must be some."""
    wanted = share * sum(counts.values())
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            break
    return value
