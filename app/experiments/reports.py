"""An experiment's report, made of its rows' scores when it is first asked for: nothing but the scores is stored.

It takes seconds, and never changes, so the newest few are remembered. What a report says is
``core.experiments.report``'s. It takes numpy, which the API's start need not wait for, so what makes reports is
imported with the first one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from app.experiments.schemas import PlotQuery, ReportOut
from core.errors import InvalidParameter, ReportNotReady
from core.experiments.plan import ExperimentPlan
from core.experiments.progress import Recorded, chosen_factors, judged_runs
from core.experiments.scores import ScoreTable
from core.experiments.status import ExperimentStatus
from core.store import adapters
from core.store.db import Database, Session
from core.store.experiments import records
from core.store.experiments.advancing import recorded_of
from core.store.experiments.evaluating import read_scores
from core.store.tables import ExperimentRecord

if TYPE_CHECKING:
    from core.experiments.report import ExperimentReport, LearningCurve

_MOST_POINTS: Final = 1000  # of a curve
_REMEMBERED: Final = 16  # reports


@dataclass(frozen=True)
class _Judged:
    """An experiment that was judged, with all that its report is made of."""

    record: ExperimentRecord
    plan: ExperimentPlan
    recorded: Recorded
    scores: ScoreTable
    losses: Mapping[str, tuple[tuple[int, float | None], ...]]  # held out, by job and step


def make(database: Database, experiment_id: str) -> ReportOut:
    """Make a report.

    Raises:
        ExperimentNotFound: there is no such experiment.
        ReportNotReady: its models were not judged yet, or never will be.
    """
    told: dict[str, Any] = _report(database, experiment_id).model_dump(mode="json")
    return ReportOut(object="experiment.report", experiment=experiment_id, **told)


def summary(database: Database, experiment_id: str) -> str:
    """Write a report's numbers as CSV; raises as `make`."""
    from core.experiments.report_csv import summary_csv

    return summary_csv(_report(database, experiment_id))


def scores(database: Database, experiment_id: str) -> str:
    """Write all scores as CSV; raises as `make`."""
    from core.experiments.report_csv import scores_csv

    judged = _read(database, experiment_id)
    return scores_csv(judged.plan, judged.scores)


def plot(database: Database, experiment_id: str, query: PlotQuery) -> str:
    """Draw a report's differences; raises as `make`.

    Raises:
        InvalidParameter: there is no such metric in it, or nothing was tuned.
    """
    from core.experiments.forest_plot import forest_plot

    report = _report(database, experiment_id)
    compared = report.equal_rates if query.rates == "equal" else report.tuned
    if compared is None:
        raise InvalidParameter("rates", "no arm of this experiment has another learning rate than its own")
    metric = query.metric or report.primary_metric
    if metric not in {one.metric for one in compared.metrics}:
        raise InvalidParameter("metric", f"there is no {metric} in this report")
    return forest_plot(compared, metric, query.theme)


def _read(database: Database, experiment_id: str) -> _Judged:
    with database.read() as session:
        record = records.get(session, experiment_id)
        if record.status is not ExperimentStatus.SUCCEEDED or record.judging_id is None:
            raise ReportNotReady(experiment_id, _why_not(record))
        plan, recorded = ExperimentPlan.model_validate(record.plan), recorded_of(session, record)
        judged = judged_runs(plan, recorded)
        losses = {outcome.job_id: _losses(session, outcome.job_id) for outcome in judged}
        return _Judged(record, plan, recorded, read_scores(session, record.judging_id, judged), losses)


def _why_not(record: ExperimentRecord) -> str:
    if record.status is ExperimentStatus.RUNNING:
        return "it is being judged" if record.judging_id is not None else "its runs have not all ended"
    return record.error or f"it was {record.status}"


def _losses(session: Session, job_id: str) -> tuple[tuple[int, float | None], ...]:
    checkpoints, _ = adapters.list_checkpoints(session, job_id, None, _MOST_POINTS)
    return tuple(
        (checkpoint.step, checkpoint.metrics["full_valid_loss"])
        for checkpoint in reversed(checkpoints)
        if "full_valid_loss" in checkpoint.metrics
    )


@lru_cache(maxsize=_REMEMBERED)
def _report(database: Database, experiment_id: str) -> "ExperimentReport":
    from core.experiments.report import make_report

    judged = _read(database, experiment_id)
    plan, record = judged.plan, judged.record
    notes = [one["text"] for one in record.pruned or ()]
    notes += [record.stopped] if record.stopped is not None else []
    notes += [
        f"{plan.arms[outcome.run.arm].name} with seed {outcome.run.seed} made no model (job {outcome.job_id} "
        f"{outcome.status})."
        for outcome in judged.recorded.runs
        if outcome.model is None
    ]
    rerun = record.requested | {"seeds": list(plan.seeds)}
    if plan.judging.sampling.seed is not None:  # where none was asked for, one was drawn
        rerun["sampling"] = record.requested.get("sampling", {}) | {"seed": plan.judging.sampling.seed}
    factors = chosen_factors(plan, judged.recorded.runs)
    return make_report(plan, judged.scores, factors, notes, _curves(judged), rerun)


def _curves(judged: _Judged) -> "list[LearningCurve]":
    from core.experiments.report import LearningCurve

    return [
        LearningCurve(
            arm=judged.plan.arms[outcome.run.arm].name,
            seed=outcome.run.seed,
            learning_rate=judged.plan.spec_of(outcome.run).learning_rate,
            steps=tuple(step for step, _ in judged.losses[outcome.job_id]),
            loss=tuple(loss for _, loss in judged.losses[outcome.job_id]),
        )
        for outcome in judged_runs(judged.plan, judged.recorded)
    ]
