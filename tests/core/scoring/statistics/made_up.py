"""Made-up scores of which the truth is known: two models and three kinds of metric, many trials at once.

Axis letters: N rows. Rows have a difficulty that both models share; some rows repeat an earlier one.
"""

from dataclasses import dataclass

import numpy as np

from core.scoring.registry import METRICS, Metric
from core.scoring.statistics.bootstrap import Numbers
from core.scoring.statistics.comparison import Arm, PairedComparison, compare

RESAMPLES = 1000  # of each trial: the p-values of a trial are then right to 0.007 at 0.05, by chance, to either side
KINDS = {"binary": "exact_match", "bounded": "token_f1", "real": "nats_per_token"}


@dataclass(frozen=True)
class World:
    """Where trials come from. ``shift`` is what ours is really worse by, in the metric's own direction of numbers."""

    kind: str
    rows: int = 120
    seeds: int = 1
    seed_deviation: float = 0.0  # of a trained model's mean, around its method's
    shift: float = 0.0

    @property
    def metric(self) -> Metric:
        return METRICS[KINDS[self.kind]]

    def trial(self, random: np.random.Generator, margin: float | None = None) -> PairedComparison:
        """Draw rows, train and score both models on them, and compare."""
        clusters_N = np.arange(self.rows)
        clusters_N[-self.rows // 10 :] = clusters_N[: self.rows // 10]  # a tenth repeats earlier rows
        difficulty_N = random.random(self.rows)[clusters_N]
        theirs = [self._scores(random, difficulty_N, 0.0) for _ in range(self.seeds)]
        ours = [self._scores(random, difficulty_N, self.shift) for _ in range(self.seeds)]
        return compare(
            self.metric,
            Arm(name="a", scores_SN=[scores.tolist() for scores in ours]),
            Arm(name="b", scores_SN=[scores.tolist() for scores in theirs]),
            clusters_N.tolist(),
            margin=margin,
            resamples=RESAMPLES,
            seed=int(random.integers(2**31)),
        )

    def _scores(self, random: np.random.Generator, difficulty_N: Numbers, shift: float) -> Numbers:
        shift += self.seed_deviation * random.standard_normal()
        match self.kind:
            case "binary":
                right: Numbers = (random.random(self.rows) < 0.8 - 0.6 * difficulty_N + shift).astype(float)
                return right
            case "bounded":
                found: Numbers = random.beta(4 * (1.05 - difficulty_N), 4 * (0.05 + difficulty_N)) + shift
                return found
        skewed: Numbers = difficulty_N + random.lognormal(-1, 0.8, self.rows) + shift
        return skewed
