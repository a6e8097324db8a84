"""Takes an experiment's next step, whoever looks first: any process, any number at once, killed at any moment.

What the step is, `core.experiments.progress` says of what is recorded. It is taken in one transaction that begins by
naming the version it was decided by, so of several who decided at once one takes it, and a step that was not committed
was not taken.
"""

from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import select, update

from core.errors import InvalidInput, NotFound
from core.experiments.plan import ExperimentPlan, PlannedRun
from core.experiments.progress import (
    Choose,
    End,
    EvaluationOutcome,
    Judge,
    Prune,
    Recorded,
    RunOutcome,
    StartRuns,
    Step,
    Wait,
    next_step,
)
from core.experiments.status import ExperimentStatus
from core.store.db import Database, Session
from core.store.experiments import records
from core.store.experiments.evaluating import evaluate, read_scores
from core.store.tables import ExperimentRecord, ExperimentRunRecord, JobRecord

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class _Seen:
    """An experiment as it was when its step was decided."""

    record: ExperimentRecord
    plan: ExperimentPlan
    recorded: Recorded


def advance(database: Database, experiment_id: str, now: int) -> None:
    """Take the experiment's next step, if there is one.

    Raises:
        DatabaseUnavailable, StorageFull: as `Database.write`; the step was not taken, or is seen to be next time.
    """
    with database.read() as session:
        try:
            seen = _see(session, experiment_id)
        except ValidationError as error:  # of a newer version, whose processes are there as well
            _log.warning(
                "experiment left to others: its plan is not understood here", id=experiment_id, reason=str(error)
            )
            return
        step = next_step(seen.plan, seen.recorded)
        if isinstance(step, Wait):
            return
        pruned = _prune(session, seen, step) if isinstance(step, Prune) else None
    try:
        with database.write() as session:
            _take(session, seen, step, pruned, now)
    except (NotFound, InvalidInput) as error:
        # what the plan needs was deleted meanwhile: nothing of the step was written
        with database.write() as session:
            records.end(session, experiment_id, ExperimentStatus.FAILED, str(error), now)


def list_outcomes(session: Session, experiment_id: str) -> list[RunOutcome]:
    """List what became of an experiment's runs, in the order in which they were queued."""
    rows = session.execute(
        select(ExperimentRunRecord, JobRecord)
        .join(JobRecord, JobRecord.id == ExperimentRunRecord.job_id)
        .where(ExperimentRunRecord.experiment_id == experiment_id)
    ).all()
    return sorted((_outcome(run, job) for run, job in rows), key=lambda outcome: outcome.job_id)


def recorded_of(session: Session, record: ExperimentRecord) -> Recorded:
    """Give all that an experiment's next step follows from, beside its plan."""
    plan = ExperimentPlan.model_validate(record.plan)
    kept = None
    if record.pruned is not None:
        kept = frozenset(range(len(plan.arms))) - {one["arm"] for one in record.pruned}
    return Recorded(
        runs=list_outcomes(session, record.id),
        kept=kept,
        choosing=_evaluation(session, record.choosing_id),
        judging=_evaluation(session, record.judging_id),
    )


def _see(session: Session, experiment_id: str) -> _Seen:
    record = records.get(session, experiment_id)
    return _Seen(record, ExperimentPlan.model_validate(record.plan), recorded_of(session, record))


def _outcome(run: ExperimentRunRecord, job: JobRecord) -> RunOutcome:
    seconds = None
    if job.started_at is not None and job.finished_at is not None:
        seconds = float(job.finished_at - job.started_at)
    return RunOutcome(
        run=PlannedRun(arm=run.arm, seed=run.seed, rate_factor=run.rate_factor),
        job_id=job.id,
        status=job.status,
        seconds=seconds,
        choosing_loss=((job.result or {}).get("metrics") or {}).get("full_valid_loss"),
        model=job.fine_tuned_model,
        judged_as=run.judged_as,
    )


def _evaluation(session: Session, job_id: str | None) -> EvaluationOutcome | None:
    job = None if job_id is None else session.get(JobRecord, job_id)
    return None if job is None else EvaluationOutcome(job.status, job.error_message)


def _prune(session: Session, seen: _Seen, step: Prune) -> list[dict[str, Any]]:
    from core.experiments.pruning import prune  # with numpy, for which the sweeper's process need not wait before

    assert seen.record.choosing_id is not None
    scores = read_scores(session, seen.record.choosing_id, step.models)
    return [one.model_dump(mode="json") for one in prune(seen.plan, scores)]


def _take(session: Session, seen: _Seen, step: Step, pruned: list[dict[str, Any]] | None, now: int) -> None:
    """Take a step, unless another was first or the experiment was cancelled."""
    record = session.scalar(
        update(ExperimentRecord)
        .where(
            ExperimentRecord.id == seen.record.id,
            ExperimentRecord.version == seen.record.version,
            ExperimentRecord.status == ExperimentStatus.RUNNING,
        )
        .values(version=ExperimentRecord.version + 1)
        .returning(ExperimentRecord)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if record is None:
        return
    plan = seen.plan
    match step:
        case StartRuns(runs):
            records.start_runs(session, record, plan, runs, now)
        case Choose(models):
            assert plan.choosing is not None
            record.choosing_id = evaluate(session, record, plan.choosing, models, now, base=False)
        case Prune():
            record.pruned = pruned
        case Judge(models, stopped):
            record.stopped = stopped
            record.judging_id = evaluate(session, record, plan.judging, models, now, base=plan.base)
        case End(error):
            status = ExperimentStatus.SUCCEEDED if error is None else ExperimentStatus.FAILED
            records.end(session, record.id, status, error, now)
        case Wait():
            raise AssertionError("there is no step to take")
    session.flush()
