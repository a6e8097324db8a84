"""The scores that an experiment is judged by: per model, metric and row, as an evaluation gave them.

Axis letters: N rows, S seeds. Knows neither where they are kept nor how they came to be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.experiments.plan import PlannedRun
from core.scoring.registry import METRICS

ByRow = Sequence[float | None]  # of one model, on one metric


@dataclass(frozen=True)
class RunScores:
    """One model's scores of all rows, by metric. ``run`` None: the base model's, as it is."""

    run: PlannedRun | None
    scores: Mapping[str, ByRow]


@dataclass(frozen=True)
class ScoreTable:
    """Models on the same rows.

    Attributes:
        lines_N: where each row stands in the file.
        clusters_N: equal for rows of one prompt.
        tokens_N: of the reference, by which means over tokens are weighted.
    """

    lines_N: Sequence[int]
    clusters_N: Sequence[str]
    tokens_N: Sequence[int]
    models: Sequence[RunScores]

    def weights(self, metric: str) -> list[float] | None:
        """Give how much each row counts in a metric's mean, (N,); None: all alike."""
        return [float(tokens) for tokens in self.tokens_N] if METRICS[metric].per == "token" else None

    def of_arm(self, arm: int | None, factor: float, metric: str) -> dict[int, ByRow]:
        """Give an arm's scores by seed, at one of its rates; of None, the base model, under the seed 0."""
        if arm is None:
            base = next((model for model in self.models if model.run is None), None)
            return {} if base is None else {0: base.scores[metric]}
        return {
            model.run.seed: model.scores[metric]
            for model in self.models
            if model.run is not None and model.run.arm == arm and model.run.rate_factor == factor
        }

    @property
    def clusters(self) -> int:
        """How many different prompts there are."""
        return len(set(self.clusters_N))
