"""Which arms are worth further seeds, by their first seed's models on the choosing part, never by the judge's rows."""

from core.experiments.plan import ExperimentPlan
from core.experiments.scores import ScoreTable
from core.scoring.registry import METRICS
from core.scoring.statistics.mean_score import MeanScore, mean_score
from core.values import Frozen


class PrunedArm(Frozen):
    """An arm that does not go on, and why, in a sentence."""

    arm: int
    text: str


def prune(plan: ExperimentPlan, scores: ScoreTable) -> tuple[PrunedArm, ...]:
    """Name the arms whose interval on the metric that decides does not overlap the best one's.

    Args:
        scores: of one model of each arm. An arm without a mean or an interval goes on: nothing speaks against it.
    """
    metric = METRICS[plan.primary_metric]
    means: dict[int, MeanScore] = {}
    for model in scores.models:
        if model.run is not None:
            found = mean_score(metric, [model.scores[metric.name]], scores.clusters_N, scores.weights(metric.name))
            if found.mean is not None and found.interval is not None:
                means[model.run.arm] = found
    if not means:
        return ()
    sign = -1 if metric.better == "higher" else 1
    best = min(means, key=lambda arm: sign * (means[arm].mean or 0.0))
    best_interval = means[best].interval
    assert best_interval is not None
    pruned = []
    for arm, found in means.items():
        assert found.interval is not None
        if found.interval.low > best_interval.high or found.interval.high < best_interval.low:
            pruned.append(PrunedArm(arm=arm, text=_text(plan, arm, found, best, means[best])))
    return tuple(pruned)


def _text(plan: ExperimentPlan, arm: int, found: MeanScore, best: int, best_found: MeanScore) -> str:
    return (
        f"{plan.arms[arm].name} was pruned after one seed: {_written(found)} on {plan.primary_metric} over the "
        f"choosing part, where {plan.arms[best].name} has {_written(best_found)}."
    )


def _written(found: MeanScore) -> str:
    assert found.interval is not None
    return f"{found.mean:.3g} ({found.interval.low:.3g} to {found.interval.high:.3g})"
