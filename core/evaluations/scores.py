"""What an evaluation's models came to, row by row: the numbers that its result, and an experiment's, are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.scoring.registry import Metric
from core.values import Frozen

NATS: Final = "nats_per_token"  # by which it is told what an adapter forgot and learnt
EXTRACTED: Final = "extracted"  # 1: a model goes on with the rest of a trained answer exactly, 0: it does not


class ScoredRow(Frozen):
    """What one model made of one row.

    Attributes:
        model_index: its place among the evaluation's models, from 0.
        row: its place among the evaluation's rows, from 0.
        answer: what the model wrote; None: no metric needs that.
        stopped: whether it closed its answer itself; None as with the answer.
        tokens: of the reference, that it was scored on; 0 where no metric needs that.
        scores: by metric; None: not defined for this row.
    """

    model_index: int
    row: int
    answer: str | None
    stopped: bool | None
    tokens: int
    scores: dict[str, float | None]


@dataclass(frozen=True)
class RowScores:
    """One row's scores: of which line and cluster, and over how many tokens of its reference. None: not defined."""

    line: int
    cluster: str
    tokens: int
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class ModelScores:
    """One model's scores of all rows of an evaluation, in the order of the file's lines."""

    model: str
    rows: Sequence[RowScores]

    @property
    def clusters(self) -> list[str]:
        """What each row belongs to."""
        return [row.cluster for row in self.rows]

    def scores_by(self, metric: Metric) -> list[float | None]:
        """Give the rows' scores by a metric."""
        return [row.scores.get(metric.name) for row in self.rows]

    def weights_for(self, metric: Metric) -> list[float] | None:
        """Give how much each row counts in the metric's mean; None: all alike."""
        return [float(row.tokens) for row in self.rows] if metric.per == "token" else None
