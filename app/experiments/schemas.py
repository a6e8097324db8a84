"""Wire types of experiments, which are our own."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from app.evaluations.schemas import DEFAULT_ROWS, EvaluationSampling
from app.fine_tuning.schemas import JobCreate
from app.http.field_types import Many, StoredText, described_by, whole
from app.http.wire import Body, Out, Query
from core.evaluations.spec import MAX_ROWS
from core.experiments.detectable import Detectable, smallest_detectable
from core.experiments.plan import ExperimentPlan, RowCounts, TotalEstimate, estimate_total
from core.experiments.progress import Recorded, RunOutcome, chosen_factors
from core.experiments.requested import MAX_SEEDS, SEEDS, ExperimentFields, TrainingSeed
from core.jobs.status import TERMINAL
from core.scoring.exactness import Normalization
from core.store.tables import ExperimentRecord


class ExperimentCreate(Body, ExperimentFields):
    """Asks for an experiment: a job, the arms that change some of it, and by what they are judged."""

    model_config = described_by(
        {
            "job": {"model": "smollm2-135m-instruct", "training_file": "file-06h2n5v3kl7q9"},
            "question": "labels",
            "seeds": 3,
            "primary_metric": "nats_per_token",
        }
    )

    job: JobCreate
    seeds: int | Many[Annotated[TrainingSeed, BeforeValidator(whole)]] = Field(
        SEEDS, description=f"How many, counted from 1, or which; at most {MAX_SEEDS}."
    )
    judge: StoredText | None = Field(
        None, description="File of the rows to be judged by; null: the held-out part of the job's files."
    )
    max_rows: int = Field(DEFAULT_ROWS, ge=2, le=MAX_ROWS, description="To be judged by; chosen by their hashes.")
    normalization: Normalization = Field("strip", description="What exact_match leaves aside.")
    sampling: EvaluationSampling = EvaluationSampling()


class PlotQuery(Query):
    """Which picture."""

    metric: str | None = Field(None, description="Null: the one that decides.")
    theme: Literal["light", "dark"] = "light"
    rates: Literal["equal", "tuned"] = Field("equal", description="Learning rates: alike, or each arm's best of three.")


class ArmOut(Out):
    """An arm: what it changes of the job, and what comes of that."""

    name: str
    fields: dict[str, Any]
    learning_rate: float
    prompt_loss_weight: float
    estimated_seconds: float | None  # of one run


class PlanOut(Out):
    """What an experiment does, before it starts: `estimate` adds up its runs, `detectable` says what it could show."""

    model: str
    arms: list[ArmOut]
    base: bool
    seeds: list[int]
    primary_metric: str
    metrics: list[str]
    margin: float | None
    rows: RowCounts
    tune: Literal["learning_rate"] | None
    prune: bool
    budget_s: int | None
    notes: list[str]
    estimate: TotalEstimate
    detectable: Detectable

    @classmethod
    def fields_of(cls, plan: ExperimentPlan) -> dict[str, Any]:
        return {
            "model": plan.base_model,
            "arms": [
                ArmOut(
                    name=arm.name,
                    fields=arm.fields,
                    learning_rate=arm.spec.learning_rate,
                    prompt_loss_weight=arm.spec.prompt_loss_weight,
                    estimated_seconds=None
                    if arm.estimate is None or arm.estimate.seconds is None
                    else arm.estimate.seconds.total,
                )
                for arm in plan.arms
            ],
            "base": plan.base,
            "seeds": list(plan.seeds),
            "primary_metric": plan.primary_metric,
            "metrics": list(plan.metrics),
            "margin": plan.margin,
            "rows": plan.rows,
            "tune": "learning_rate" if plan.tunes else None,
            "prune": plan.prunes,
            "budget_s": plan.budget_s,
            "notes": list(plan.notes),
            "estimate": estimate_total(plan),
            "detectable": smallest_detectable(plan.primary_metric, plan.different_rows, len(plan.seeds)),
        }


class ExperimentEstimateOut(PlanOut):
    """What an experiment of the same body would do."""

    object: Literal["experiment.estimate"]

    @classmethod
    def of(cls, plan: ExperimentPlan) -> "ExperimentEstimateOut":
        return cls(object="experiment.estimate", **cls.fields_of(plan))


class ReportOut(Out):
    """What an experiment found, as docs/scores.md explains it.

    `equal_rates` has each arm at its own learning rate, `tuned` each at its best of three; each of them a `paragraph`,
    the `verdicts` that it is made of, and the `metrics` with means, differences and intervals.
    """

    object: Literal["experiment.report"]
    experiment: str
    primary_metric: str
    rows: int
    different_rows: int
    too_few: bool  # for a verdict
    equal_rates: dict[str, Any]
    tuned: dict[str, Any] | None  # null: not asked for, or no arm has another best rate
    notes: list[str]
    curves: list[dict[str, Any]]
    rerun: dict[str, Any]  # the request that repeats it


class RunOut(Out):
    """One training of an arm; the job tells the rest."""

    arm: str
    seed: int
    learning_rate: float
    job: str
    status: str
    model: str | None
    held_out_loss: float | None  # nats per answer token at its end, on what its job holds out

    @classmethod
    def of(cls, outcome: RunOutcome, plan: ExperimentPlan) -> "RunOut":
        return cls(
            arm=plan.arms[outcome.run.arm].name,
            seed=outcome.run.seed,
            learning_rate=plan.spec_of(outcome.run).learning_rate,
            job=outcome.job_id,
            status=outcome.status,
            model=outcome.model,
            held_out_loss=outcome.choosing_loss,
        )


class ExperimentOut(PlanOut):
    """An experiment and how far it is: ``stage`` says what it does now, ``runs`` are its jobs so far."""

    id: str
    object: Literal["experiment"]
    created_at: int
    finished_at: int | None
    status: str
    stage: Literal["training", "choosing", "judging"] | None  # null: it has ended
    runs: list[RunOut]
    runs_ended: int
    tuned_rates: dict[str, float]  # by arm, as they were chosen
    pruned: list[str]  # a sentence for each arm that was not trained further
    stopped: str | None  # why not all seeds were trained
    choosing_evaluation: str | None
    judging_evaluation: str | None
    error: str | None

    @classmethod
    def of(cls, record: ExperimentRecord, recorded: Recorded) -> "ExperimentOut":
        plan = ExperimentPlan.model_validate(record.plan)
        statuses = Counter(outcome.status for outcome in recorded.runs)
        factors = chosen_factors(plan, recorded.runs)
        return cls(
            **cls.fields_of(plan),
            id=record.id,
            object="experiment",
            created_at=record.created_at,
            finished_at=record.finished_at,
            status=record.status,
            stage=_stage(record),
            runs=[RunOut.of(outcome, plan) for outcome in recorded.runs],
            runs_ended=sum(statuses[status] for status in TERMINAL),
            tuned_rates={
                plan.arms[arm].name: plan.arms[arm].spec.learning_rate * factor for arm, factor in factors.items()
            },
            pruned=[one["text"] for one in record.pruned or ()],
            stopped=record.stopped,
            choosing_evaluation=record.choosing_id,
            judging_evaluation=record.judging_id,
            error=record.error,
        )


def _stage(record: ExperimentRecord) -> Literal["training", "choosing", "judging"] | None:
    if record.finished_at is not None:
        return None
    if record.judging_id is not None:
        return "judging"
    return "choosing" if record.choosing_id is not None and record.pruned is None else "training"
