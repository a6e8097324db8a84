"""Scores of two models on the same rows, put side by side and summed by cluster.

Axis letters: S training seeds, N rows, C clusters of rows.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from core.scoring.statistics.bootstrap import Numbers

ScoresByRow = Sequence[float | None]  # of one trained model


@dataclass(frozen=True)
class Clusters:
    """Sums over clusters of rows, in the order in which the clusters first appear.

    Attributes:
        sums_SC: of each seed's scores times the rows' weights.
        weights_C: of the rows.
        rows: that were summed.
        left_out: rows without a score of some seed, which count nowhere.
    """

    sums_SC: Numbers
    weights_C: Numbers
    rows: int
    left_out: int

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return len(self.weights_C)

    @property
    def mean(self) -> float | None:
        """The mean over seeds and rows; None where no row was summed."""
        return float(self.seed_means.mean()) if self.count else None

    @property
    def seed_means(self) -> Numbers:
        """Each seed's mean over rows."""
        means: Numbers = self.sums_SC.sum(axis=1) / self.weights_C.sum()
        return means


@dataclass(frozen=True)
class PairedScores:
    """Two models on the rows that both have scores of, for every seed; ``left_out`` counts the others."""

    ours: Clusters
    theirs: Clusters

    @property
    def differences(self) -> Numbers:
        """Ours less theirs."""
        differences: Numbers = self.ours.sums_SC - self.theirs.sums_SC
        return differences


def cluster(
    scores_SN: Sequence[ScoresByRow], clusters_N: Sequence[Hashable], weights_N: Sequence[float] | None = None
) -> Clusters:
    """Sum one model's scores.

    Args:
        scores_SN: of each seed, the rows' scores; None and NaN are none.
        clusters_N: what each row belongs to: the hash of its normalised prompt (`core.text.held_out.hash_of`).
        weights_N: how much each row counts; one of weight 0 counts as a row without a score. None: all alike.

    Raises:
        ValueError: there is no seed, or the rows are not as many everywhere.
    """
    [summed] = _summed([scores_SN], clusters_N, weights_N)
    return summed


def pair(
    ours_SN: Sequence[ScoresByRow],
    theirs_SN: Sequence[ScoresByRow],
    clusters_N: Sequence[Hashable],
    weights_N: Sequence[float] | None = None,
) -> PairedScores:
    """Put two models side by side as `cluster` sums one; a row that one of them lacks is left out of both.

    Raises:
        ValueError: there is no seed, seeds or rows are not as many everywhere, or no row has all scores.
    """
    if len(ours_SN) != len(theirs_SN):
        raise ValueError(f"there are {len(ours_SN)} seeds of one model and {len(theirs_SN)} of the other")
    ours, theirs = _summed([ours_SN, theirs_SN], clusters_N, weights_N)
    return PairedScores(ours, theirs)


def _summed(
    models: Sequence[Sequence[ScoresByRow]], clusters_N: Sequence[Hashable], weights_N: Sequence[float] | None
) -> list[Clusters]:
    lengths = {len(scores_N) for scores_SN in models for scores_N in scores_SN} | {len(clusters_N)}
    if not all(models) or len(lengths) > 1 or (weights_N is not None and len(weights_N) != len(clusters_N)):
        raise ValueError(f"every seed must have a score, or None, for each of the same rows; there are {lengths}")
    scores_MSN = np.array(models, dtype=np.float64)  # None becomes NaN
    weights = np.ones(len(clusters_N)) if weights_N is None else np.array(weights_N, dtype=np.float64)
    is_there_N = np.isfinite(scores_MSN).all(axis=(0, 1)) & (weights > 0)
    numbers: dict[Hashable, int] = {}
    places_N = np.array(
        [
            numbers.setdefault(one, len(numbers))
            for one, is_there in zip(clusters_N, is_there_N.tolist(), strict=True)
            if is_there
        ],
        dtype=np.int64,
    )
    weights = weights[is_there_N]
    weights_C = np.bincount(places_N, weights, len(numbers)).astype(np.float64)  # of no row bincount counts in integers
    return [
        Clusters(
            np.array([np.bincount(places_N, scores_N[is_there_N] * weights, len(numbers)) for scores_N in scores_SN]),
            weights_C,
            rows=int(is_there_N.sum()),
            left_out=int((~is_there_N).sum()),
        )
        for scores_SN in scores_MSN
    ]
