"""A report's numbers, and the scores behind them, as CSV for whoever goes on calculating."""

import csv
import io
from collections.abc import Iterator

from core.experiments.arms import BASE_ARM
from core.experiments.plan import ExperimentPlan
from core.experiments.report import ArmScore, ComparedArms, ExperimentReport
from core.experiments.scores import ScoreTable
from core.scoring.statistics.comparison import PairedComparison

_SUMMARY = (
    *("rates", "metric", "arm", "learning_rate", "mean", "low", "high", "seeds_low", "seeds_high", "rows", "seeds"),
    *("difference", "difference_low", "difference_high", "difference_seeds_low", "difference_seeds_high", "verdict"),
)
_SCORES = ("arm", "learning_rate", "seed", "line", "prompt", "metric", "score")
# what a spreadsheet would take for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def summary_csv(report: ExperimentReport) -> str:
    """Write a line for each choice of rates, metric and arm; differences are from the first arm."""
    rows = list(_summary_rows("equal", report.equal_rates))
    if report.tuned is not None:
        rows += _summary_rows("tuned", report.tuned)
    return _written(_SUMMARY, iter(rows))


def scores_csv(plan: ExperimentPlan, scores: ScoreTable) -> str:
    """Write a line for each model, row and metric; a score that is not defined is an empty cell."""
    return _written(_SCORES, _score_rows(plan, scores))


def _summary_rows(rates: str, compared: ComparedArms) -> Iterator[tuple[object, ...]]:
    words = {verdict.comparison.ours: verdict.word for verdict in compared.verdicts}
    for metric in compared.metrics:
        differences = {one.ours: one for one in metric.comparisons}
        for arm in metric.arms:
            found = differences.get(arm.arm)
            word = words.get(arm.arm) if metric.decides else None
            yield rates, metric.metric, *_of_arm(arm), *_of_difference(found), word


def _of_arm(arm: ArmScore) -> tuple[object, ...]:
    interval, over_seeds = arm.mean.interval, arm.over_seeds
    return (
        arm.arm,
        arm.learning_rate,
        arm.mean.mean,
        *((None, None) if interval is None else (interval.low, interval.high)),
        *((None, None) if over_seeds is None else (over_seeds.low, over_seeds.high)),
        arm.mean.rows,
        len(arm.seeds),
    )


def _of_difference(found: PairedComparison | None) -> tuple[object, ...]:
    if found is None:
        return (None,) * 5
    ends: list[object] = []
    for evidence in (found.over_rows, found.over_seeds):
        ends += (None, None) if evidence is None else (evidence.interval.low, evidence.interval.high)
    return found.difference, *ends


def _score_rows(plan: ExperimentPlan, scores: ScoreTable) -> Iterator[tuple[object, ...]]:
    for model in scores.models:
        if model.run is None:
            named: tuple[object, ...] = (BASE_ARM, None, None)
        else:
            named = (plan.arms[model.run.arm].name, plan.spec_of(model.run).learning_rate, model.run.seed)
        for metric, values in model.scores.items():
            for line, cluster, value in zip(scores.lines_N, scores.clusters_N, values, strict=True):
                yield *named, line, cluster, metric, value


def _written(header: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return written.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
