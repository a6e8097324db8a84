"""Experiments in the database: made with their first jobs, found, and cancelled with all that they began.

How one goes on is in `core.store.experiments.advancing`. ``now`` is only recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from core.errors import ExperimentNotFound, FileNotStored, IdempotencyInProgress
from core.experiments.plan import ExperimentPlan, PlannedRun
from core.experiments.status import ExperimentStatus
from core.ids import new_id, request_digest
from core.jobs.kind import JobKind
from core.store import jobs
from core.store.db import Session
from core.store.jobs import NewJob
from core.store.queue import control
from core.store.tables import ExperimentFileRecord, ExperimentRecord, ExperimentRunRecord, FileRecord

# A job's metadata that tell its place in an experiment.
METADATA_KEYS: Final = ("experiment", "arm", "seed")


@dataclass(frozen=True)
class NewExperiment:
    """An experiment that is asked for. ``idempotency_key`` counts for its caller alone."""

    caller: str
    requested: dict[str, Any]
    request_sha256: str
    plan: ExperimentPlan
    idempotency_key: str | None = None


def create(session: Session, new: NewExperiment, now: int) -> ExperimentRecord:
    """Record an experiment and queue its first round of jobs.

    Raises:
        FileNotStored: a file of the plan was deleted meanwhile.
        InvalidParameter: the adapter that arms go on from was deleted meanwhile.
        IdempotencyInProgress: another transaction used the key at the same time; this one must be rolled back.
    """
    record = ExperimentRecord(
        id=new_id("exp-"),
        caller=new.caller,
        idempotency_key=new.idempotency_key,
        status=ExperimentStatus.RUNNING,
        requested=new.requested,
        request_sha256=new.request_sha256,
        plan=new.plan.model_dump(mode="json"),
        created_at=now,
    )
    session.add(record)
    try:
        session.flush()
    except IntegrityError as error:
        raise IdempotencyInProgress from error
    _keep_files(session, record.id, new.plan)
    start_runs(session, record, new.plan, new.plan.first_round(), now)
    return record


def start_runs(
    session: Session, record: ExperimentRecord, plan: ExperimentPlan, runs: Sequence[PlannedRun], now: int
) -> list[str]:
    """Queue jobs for runs, and give their ids.

    Raises:
        FileNotStored, InvalidParameter: as `create`.
    """
    started = []
    for run in runs:
        job = jobs.create(session, _job_of(record, plan, run), now)
        session.add(ExperimentRunRecord(experiment_id=record.id, **run.model_dump(), job_id=job.id))
        started.append(job.id)
    session.flush()
    return started


def get(session: Session, experiment_id: str) -> ExperimentRecord:
    """Give an experiment's row.

    Raises:
        ExperimentNotFound: there is none.
    """
    record = session.get(ExperimentRecord, experiment_id)
    if record is None:
        raise ExperimentNotFound(experiment_id)
    return record


def find_idempotent(session: Session, caller: str, key: str) -> ExperimentRecord | None:
    """Find the experiment that an Idempotency-Key was used for."""
    return session.scalar(
        select(ExperimentRecord).where(ExperimentRecord.caller == caller, ExperimentRecord.idempotency_key == key)
    )


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[Sequence[ExperimentRecord], bool]:
    """List experiments newest first, and tell whether there are older ones."""
    query = select(ExperimentRecord)
    if after is not None:
        query = query.where(ExperimentRecord.id < after)
    rows = session.scalars(query.order_by(ExperimentRecord.id.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def list_running(session: Session) -> Sequence[str]:
    """List the ids of the experiments that have not ended, oldest first."""
    running = ExperimentRecord.status == ExperimentStatus.RUNNING
    return session.scalars(select(ExperimentRecord.id).where(running).order_by(ExperimentRecord.id)).all()


def list_runs(session: Session, experiment_id: str) -> Sequence[ExperimentRunRecord]:
    """List an experiment's runs, in no order."""
    return session.scalars(select(ExperimentRunRecord).where(ExperimentRunRecord.experiment_id == experiment_id)).all()


def cancel(session: Session, experiment_id: str, now: int) -> ExperimentRecord:
    """Cancel an experiment and all of its jobs that have not ended; an ended one stays as it is.

    Raises:
        ExperimentNotFound: there is none.
    """
    record = get(session, experiment_id)
    if not end(session, experiment_id, ExperimentStatus.CANCELLED, None, now):
        return record
    for run in list_runs(session, experiment_id):
        control.cancel(session, run.job_id, now)
    for evaluation_id in filter(None, (record.choosing_id, record.judging_id)):
        control.cancel(session, evaluation_id, now, JobKind.EVALUATION)
    return session.get_one(ExperimentRecord, experiment_id, populate_existing=True)


def end(session: Session, experiment_id: str, status: ExperimentStatus, error: str | None, now: int) -> bool:
    """End an experiment that runs, and tell whether it did; whoever was about to take a step then finds it taken."""
    ended = session.scalar(
        update(ExperimentRecord)
        .where(ExperimentRecord.id == experiment_id, ExperimentRecord.status == ExperimentStatus.RUNNING)
        .values(status=status, error=error, finished_at=now, version=ExperimentRecord.version + 1)
        .returning(ExperimentRecord.id)
        .execution_options(synchronize_session=False)
    )
    return ended is not None


def _keep_files(session: Session, experiment_id: str, plan: ExperimentPlan) -> None:
    refs = [plan.judging.file, None if plan.choosing is None else plan.choosing.file]
    refs += [file for arm in plan.arms for file in (arm.spec.training_file, arm.spec.validation_file)]
    for file_id in sorted({ref.id for ref in refs if ref is not None}):
        # FOR SHARE: a deletion under way is waited for, and seen
        if session.scalar(select(FileRecord.id).where(FileRecord.id == file_id).with_for_update(read=True)) is None:
            raise FileNotStored(file_id)
        session.add(ExperimentFileRecord(file_id=file_id, experiment_id=experiment_id))
    session.flush()


def _job_of(record: ExperimentRecord, plan: ExperimentPlan, run: PlannedRun) -> NewJob:
    arm = plan.arms[run.arm]
    requested = arm.requested | {"seed": run.seed}
    told = dict(zip(METADATA_KEYS, (record.id, arm.name, str(run.seed)), strict=True))
    return NewJob(
        caller=record.caller,
        spec=plan.spec_of(run),
        requested=requested,
        request_sha256=request_digest(requested),
        suffix=arm.requested.get("suffix"),
        metadata=(arm.requested.get("metadata") or {}) | told,
        estimate=arm.estimate,
    )
