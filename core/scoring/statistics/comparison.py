"""All numbers of one comparison: two models, one metric, the same rows. What they mean is ``core.scoring.verdict``'s.

Two sources of chance are kept apart. Which rows were there: the bootstrap over clusters. How training went: with two
or more seeds, Student's interval over the seeds' differences.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from core.scoring.registry import Better, Kind, Metric
from core.scoring.statistics import student
from core.scoring.statistics.bootstrap import (
    LEVEL,
    ONE_EACH_WAY,
    RESAMPLES,
    SEED,
    Bootstrap,
    Interval,
    Numbers,
    draw_beside,
)
from core.scoring.statistics.over_seeds import interval_of_mean
from core.scoring.statistics.p_values import apart_p, mcnemar_mid_p, sign_flip_p
from core.scoring.statistics.pairs import ScoresByRow, pair
from core.values import Frozen

INNER_LEVEL: Final = 0.9  # of two one-sided tests, each at 5 %
POWER: Final = 0.8


class Evidence(Frozen):
    """What one source of chance says of a difference.

    Attributes:
        interval: of the difference, 95 %.
        inner: 90 %, by which equivalence is decided: within the margin at both ends, each at 5 %.
        detectable: the smallest true difference that is found with 80 %; None where nothing scatters.
        more: how many more rows, or seeds, would find a difference as large as the margin, or as the one seen where
            there is no margin; 0: there are enough; None: no number would.
    """

    interval: Interval
    inner: Interval
    detectable: float | None
    more: int | None


class PairedComparison(Frozen):
    """Ours less theirs on one metric, before any verdict.

    Attributes:
        rows, left_out: with scores of both models and all seeds, and without.
        clusters: of rows that say the same; they are what intervals count.
        difference: None, as both means are, where no row has all scores.
        margin: δ, within which a difference does not matter to whoever asked; None: not stated.
        over_rows: None where there are fewer than two clusters.
        over_seeds: None with one seed.
        p_value: against no difference, over rows: McNemar's where the metric is right or wrong, else by random signs.
        p_apart: against a difference as large as the margin, over rows; None without one.
    """

    metric: str
    better: Better
    ours: str
    theirs: str
    rows: int
    left_out: int
    clusters: int
    seeds: int
    our_mean: float | None
    their_mean: float | None
    difference: float | None
    margin: float | None
    over_rows: Evidence | None
    over_seeds: Evidence | None
    p_value: float | None
    p_apart: float | None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model under its name, with each seed's scores of the rows."""

    name: str
    scores_SN: Sequence[ScoresByRow]


def compare(
    metric: Metric,
    ours: Arm,
    theirs: Arm,
    clusters_N: Sequence[Hashable],
    weights_N: Sequence[float] | None = None,
    *,
    margin: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> PairedComparison:
    """Compare two models by their scores of the same rows.

    Args:
        clusters_N, weights_N: as in `pairs.cluster`.
        margin: δ, above 0.
        resamples, seed: of the bootstrap; equal ones give equal numbers.

    Raises:
        ValueError: seeds or rows are not as many for both, or the margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"a margin is above 0, and this one is {margin}")
    scores = pair(ours.scores_SN, theirs.scores_SN, clusters_N, weights_N)
    differences_C, weights_C = scores.differences.mean(axis=0), scores.ours.weights_C
    bootstrap = None
    if len(weights_C) > 1:
        span = metric.largest - metric.smallest
        bootstrap = draw_beside(
            ONE_EACH_WAY, metric.kind, differences_C, weights_C, resamples, seed, within=(-span, span)
        )
    difference = float(differences_C.sum() / weights_C.sum()) if len(weights_C) else None
    rows_per_cluster = scores.ours.rows / max(1, len(weights_C))
    over_seeds = None
    if difference is not None and len(ours.scores_SN) > 1:
        over_seeds = _over_seeds((scores.ours.seed_means - scores.theirs.seed_means).tolist(), margin)
    return PairedComparison(
        metric=metric.name,
        better=metric.better,
        ours=ours.name,
        theirs=theirs.name,
        rows=scores.ours.rows,
        left_out=scores.ours.left_out,
        clusters=scores.ours.count,
        seeds=len(ours.scores_SN),
        our_mean=scores.ours.mean,
        their_mean=scores.theirs.mean,
        difference=difference,
        margin=margin,
        over_rows=None if bootstrap is None else _over_rows(bootstrap, difference, margin, rows_per_cluster),
        over_seeds=over_seeds,
        p_value=None if bootstrap is None else _p_value(metric.kind, differences_C, resamples, seed),
        p_apart=None if bootstrap is None or margin is None else apart_p(bootstrap, margin),
    )


def _over_rows(
    bootstrap: Bootstrap, difference: float | None, margin: float | None, rows_per_cluster: float
) -> Evidence:
    more = _more(bootstrap.deviation, bootstrap.clusters, margin, difference)
    return Evidence(
        interval=bootstrap.interval(LEVEL),
        inner=bootstrap.interval(INNER_LEVEL),
        detectable=_detectable(bootstrap.deviation, bootstrap.clusters),
        more=None if more is None else math.ceil(more * rows_per_cluster),
    )


def _over_seeds(differences: list[float], margin: float | None) -> Evidence:
    mean, deviation, seeds = fmean(differences), stdev(differences), len(differences)
    return Evidence(
        interval=interval_of_mean(differences, LEVEL),
        inner=interval_of_mean(differences, INNER_LEVEL),
        detectable=_detectable(deviation, seeds),
        more=_more(deviation, seeds, margin, mean),
    )


def _detectable(deviation: float, count: int) -> float | None:
    if not deviation:
        return None
    return student.detectable_shift(count - 1, 1 - LEVEL, POWER) * deviation / math.sqrt(count)


def _more(deviation: float, count: int, margin: float | None, difference: float | None) -> int | None:
    target = abs(margin or difference or 0.0)
    if not target or not deviation:
        return None if not target else 0
    needed = student.count_needed(target / deviation, 1 - LEVEL, POWER)
    return None if needed is None else max(0, needed - count)


def _p_value(kind: Kind, differences_C: Numbers, resamples: int, seed: int) -> float:
    """Give the p-value over rows; where a metric is right or wrong each cluster counts once, by its sum's sign."""
    if kind == "binary":
        return mcnemar_mid_p(int((differences_C > 0).sum()), int((differences_C < 0).sum()))
    return sign_flip_p(differences_C, resamples, seed)
