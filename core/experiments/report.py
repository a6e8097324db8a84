"""What an experiment found: means, differences and verdicts, from its plan and its scores. A pure function of them.

Verdicts are of the metric that was declared before the start, each arm against the first, and judged together. Other
metrics are shown with their intervals and without a word: who looks at many finds something in one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.experiments.arms import BASE_ARM
from core.experiments.plan import ExperimentPlan
from core.experiments.scores import ScoreTable
from core.scoring.registry import METRICS
from core.scoring.statistics.bootstrap import LEVEL, Interval
from core.scoring.statistics.comparison import Arm, PairedComparison, compare
from core.scoring.statistics.mean_score import MeanScore, mean_score
from core.scoring.statistics.over_seeds import interval_of_mean
from core.scoring.statistics.pairs import ScoresByRow, cluster
from core.scoring.verdict import MIN_ROWS, Verdict, judge
from core.values import Frozen


class ArmScore(Frozen):
    """An arm on one metric.

    Attributes:
        seeds: that were trained and scored; none for the base model.
        seed_means: in their order.
        over_seeds: where another training's mean may lie; None with one seed.
    """

    arm: str
    learning_rate: float | None
    seeds: tuple[int, ...]
    mean: MeanScore
    seed_means: tuple[float | None, ...]
    over_seeds: Interval | None


class MetricReport(Frozen):
    """All arms on one metric, and each against the first."""

    metric: str
    meaning: str
    better: str
    decides: bool
    arms: tuple[ArmScore, ...]
    comparisons: tuple[PairedComparison, ...]


class ComparedArms(Frozen):
    """The arms at one choice of learning rates: verdicts, in one paragraph, and the numbers of each metric."""

    paragraph: str
    verdicts: tuple[Verdict, ...]
    metrics: tuple[MetricReport, ...]


class LearningCurve(Frozen):
    """How the held-out loss of a run went: nats per answer token after so many steps."""

    arm: str
    seed: int
    learning_rate: float
    steps: tuple[int, ...]
    loss: tuple[float | None, ...]


class ExperimentReport(Frozen):
    """The whole answer.

    Attributes:
        equal_rates: each arm at its own learning rate, which is the same one where no arm says otherwise.
        tuned: each at the best of three; None where that was not asked for, or no arm has another best.
        notes: what whoever reads the verdicts must know beside them.
        rerun: the request that repeats it; on the same machine its adapters are the same to the bit.
    """

    primary_metric: str
    rows: int
    different_rows: int
    too_few: bool
    equal_rates: ComparedArms
    tuned: ComparedArms | None
    notes: tuple[str, ...]
    curves: tuple[LearningCurve, ...]
    rerun: dict[str, Any]


@dataclass(frozen=True)
class _ScoredArm:
    """An arm with the scores of each of its seeds, under the names of the metrics."""

    name: str
    learning_rate: float | None
    by_metric: Mapping[str, Mapping[int, ScoresByRow]]

    @property
    def is_base(self) -> bool:
        return self.learning_rate is None


def make_report(
    plan: ExperimentPlan,
    scores: ScoreTable,
    factors: Mapping[int, float],
    notes: Sequence[str],
    curves: Sequence[LearningCurve],
    rerun: Mapping[str, Any],
) -> ExperimentReport:
    """Compare the arms that have scores.

    Args:
        factors: of the learning rates that were chosen, by the arms' places.
        notes: beside those of the plan.
    """
    tuned = None
    if any(factor != 1.0 for factor in factors.values()):
        tuned = _compare(plan, scores, factors)
    return ExperimentReport(
        primary_metric=plan.primary_metric,
        rows=len(scores.lines_N),
        different_rows=scores.clusters,
        too_few=scores.clusters < MIN_ROWS,
        equal_rates=_compare(plan, scores, {}),
        tuned=tuned,
        notes=(*plan.notes, *notes),
        curves=tuple(curves),
        rerun=dict(rerun),
    )


def _compare(plan: ExperimentPlan, scores: ScoreTable, factors: Mapping[int, float]) -> ComparedArms:
    names = (plan.primary_metric, *(name for name in plan.metrics if name != plan.primary_metric))
    arms = _scored_arms(plan, scores, factors, names)
    metrics = tuple(_of_metric(plan, scores, arms, name) for name in names)
    verdicts = tuple(judge(metrics[0].comparisons))
    return ComparedArms(paragraph=_paragraph(arms, verdicts), verdicts=verdicts, metrics=metrics)


def _scored_arms(
    plan: ExperimentPlan, scores: ScoreTable, factors: Mapping[int, float], metrics: Sequence[str]
) -> list[_ScoredArm]:
    """Give the arms that were scored, in the plan's order, and behind them the base model."""
    arms = []
    for place, arm in enumerate(plan.arms):
        factor = factors.get(place, 1.0)
        found = {name: scores.of_arm(place, factor, name) for name in metrics}
        if found[plan.primary_metric]:
            arms.append(_ScoredArm(arm.name, arm.spec.learning_rate * factor, found))
    base = {name: scores.of_arm(None, 1.0, name) for name in metrics}
    return [*arms, _ScoredArm(BASE_ARM, None, base)] if base[plan.primary_metric] else arms


def _of_metric(plan: ExperimentPlan, scores: ScoreTable, arms: Sequence[_ScoredArm], name: str) -> MetricReport:
    metric = METRICS[name]
    return MetricReport(
        metric=name,
        meaning=metric.meaning,
        better=metric.better,
        decides=name == plan.primary_metric,
        arms=tuple(_score_of(scores, arm, name) for arm in arms),
        comparisons=tuple(
            comparison for arm in arms[1:] if (comparison := _compare_two(plan, scores, arm, arms[0], name)) is not None
        ),
    )


def _score_of(scores: ScoreTable, arm: _ScoredArm, name: str) -> ArmScore:
    by_seed, weights_N = arm.by_metric[name], scores.weights(name)
    each = [cluster([one], scores.clusters_N, weights_N).mean for one in by_seed.values()]
    known = [mean for mean in each if mean is not None]
    metric = METRICS[name]
    return ArmScore(
        arm=arm.name,
        learning_rate=arm.learning_rate,
        seeds=() if arm.is_base else tuple(by_seed),
        mean=mean_score(metric, list(by_seed.values()), scores.clusters_N, weights_N),
        seed_means=tuple(each),
        over_seeds=interval_of_mean(known, LEVEL).cut(metric.smallest, metric.largest) if len(known) > 1 else None,
    )


def _compare_two(
    plan: ExperimentPlan, scores: ScoreTable, ours: _ScoredArm, theirs: _ScoredArm, name: str
) -> PairedComparison | None:
    """Compare by the seeds that both have, the base model having any; None where there is no such seed."""
    mine, other = ours.by_metric[name], theirs.by_metric[name]
    if ours.is_base:
        mine = dict.fromkeys(other, mine[0])
    seeds = [seed for seed in mine if seed in other]
    if not seeds:
        return None
    return compare(
        METRICS[name],
        Arm(name=ours.name, scores_SN=[mine[seed] for seed in seeds]),
        Arm(name=theirs.name, scores_SN=[other[seed] for seed in seeds]),
        scores.clusters_N,
        scores.weights(name),
        margin=plan.margin if name == plan.primary_metric else None,
    )


def _paragraph(arms: Sequence[_ScoredArm], verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return f"There is nothing to compare: only {arms[0].name if arms else 'no model'} was scored."
    return " ".join(verdict.text for verdict in verdicts)
