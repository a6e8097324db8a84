"""The mean of one model's scores, and how far it could lie from what other rows would give."""

from collections.abc import Hashable, Sequence

from core.scoring.registry import Metric
from core.scoring.statistics.bootstrap import LEVEL, RESAMPLES, SEED, TWO_RIGHT_TWO_WRONG, Interval, draw_beside
from core.scoring.statistics.pairs import ScoresByRow, cluster
from core.values import Frozen


class MeanScore(Frozen):
    """The mean over rows, with its 95 % interval; None where there are fewer than two clusters.

    ``left_out`` counts the rows without a score; ``mean`` is None where all are.
    """

    metric: str
    mean: float | None
    interval: Interval | None
    rows: int
    left_out: int
    clusters: int


def mean_score(
    metric: Metric,
    scores_SN: Sequence[ScoresByRow],
    clusters_N: Sequence[Hashable],
    weights_N: Sequence[float] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> MeanScore:
    """Give a model's mean over seeds and rows; scores, clusters and weights are those of `pairs.cluster`.

    Raises:
        ValueError: there is no seed, or the rows are not as many everywhere.
    """
    summed = cluster(scores_SN, clusters_N, weights_N)
    interval = None
    if summed.count > 1:
        sums_C, within = summed.sums_SC.mean(axis=0), (metric.smallest, metric.largest)
        bootstrap = draw_beside(TWO_RIGHT_TWO_WRONG, metric.kind, sums_C, summed.weights_C, resamples, seed, within)
        interval = bootstrap.interval(LEVEL)
    return MeanScore(
        metric=metric.name,
        mean=summed.mean,
        interval=interval,
        rows=summed.rows,
        left_out=summed.left_out,
        clusters=summed.count,
    )
