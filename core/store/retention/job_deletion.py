"""Deletes jobs that have ended, with all that only they have: events, attempts, checkpoints, result files.

What stays and needs a job keeps it: its model, an experiment, an alias, a job that goes on from it or makes it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from core.errors import JobInUse, JobNotEnded, JobNotFound
from core.jobs.kind import JobKind
from core.jobs.status import TERMINAL
from core.store.aliases import records as aliases
from core.store.db import Session
from core.store.references.owners import Freed, let_go_and_tell
from core.store.tables import (
    AdapterRecord,
    AdapterState,
    AttemptRecord,
    CheckpointRecord,
    EventRecord,
    ExperimentRunRecord,
    ExpiredFileRecord,
    FileRecord,
    IdempotencyRecord,
    JobAdapterRecord,
    JobMetadataRecord,
    JobRecord,
)

_OF_A_JOB: Final = (
    EventRecord,
    AttemptRecord,
    CheckpointRecord,
    JobMetadataRecord,
    IdempotencyRecord,
    AdapterRecord,  # of a deleted model: its name ends with a part of the job's id, so it never comes again
)


@dataclass(frozen=True)
class DeletedJob:
    """A job that is gone. ``digests``: of its checkpoints, which no model name leads to any more."""

    base_model: str
    digests: Sequence[str]
    freed: Freed


def delete(session: Session, job_id: str) -> DeletedJob:
    """Delete a training that has ended.

    Raises:
        JobNotFound: there is none.
        JobNotEnded: it waits, runs or is paused.
        JobInUse: something that stays needs it.
    """
    # FOR UPDATE: who refers to a checkpoint of it looks at the same row
    job = session.scalar(
        select(JobRecord).where(JobRecord.id == job_id, JobRecord.kind == JobKind.FINE_TUNING).with_for_update()
    )
    if job is None:
        raise JobNotFound(job_id)
    if job.status not in TERMINAL:
        raise JobNotEnded(job_id, job.status.value)
    adapter = session.scalar(select(AdapterRecord).where(AdapterRecord.job_id == job_id))
    checkpoints = session.scalars(select(CheckpointRecord).where(CheckpointRecord.job_id == job_id)).all()
    made = [adapter.adapter_sha256] if adapter is not None else []
    made += [checkpoint.adapter_sha256 for checkpoint in checkpoints]
    user = _find_user(session, job_id, adapter, [checkpoint.name for checkpoint in checkpoints], made)
    if user is not None:
        raise JobInUse(job_id, user)
    # of a job with a model that was deleted, the grace of all of these runs already
    served = [] if adapter is not None else made
    results = _drop_results(session, (job.result or {}).get("result_files", []))
    for record in _OF_A_JOB:
        session.execute(sql_delete(record).where(record.job_id == job_id))
    session.delete(job)
    session.flush()
    return DeletedJob(job.base_model, sorted(set(served)), let_go_and_tell(session, {*served, *results}))


def _find_user(
    session: Session, job_id: str, adapter: AdapterRecord | None, names: Sequence[str], digests: Sequence[str]
) -> str | None:
    """Say what needs the job, and what to do about it; each is looked up in an index."""
    if adapter is not None and adapter.state is AdapterState.LIVE:
        return f"its model {adapter.name} is served; delete that first"
    run = session.scalar(select(ExperimentRunRecord.experiment_id).where(ExperimentRunRecord.job_id == job_id))
    if run is not None:
        return f"it is a run of experiment {run}, whose report reads it"
    alias = aliases.find_standing_for(session, names)
    if alias is not None:
        return f"the alias {alias[0]} stands for its checkpoint {alias[1]}; move or delete the alias first"
    again = session.scalar(select(JobRecord.id).where(JobRecord.rerun_of == job_id).limit(1))
    if again is not None:
        return f"job {again} makes it again and is compared with it; delete that first"
    later = session.scalar(select(JobRecord.id).where(JobRecord.continue_from_sha256.in_(digests)).limit(1))
    if later is not None:
        return f"job {later} goes on from what it made, as its manifest says; delete that first"
    asking = session.execute(
        select(JobRecord.kind, JobRecord.id)
        .join(JobAdapterRecord, JobAdapterRecord.job_id == JobRecord.id)
        .where(JobAdapterRecord.adapter_sha256.in_(digests), JobRecord.status.not_in(TERMINAL))
        .limit(1)
    ).one_or_none()
    return None if asking is None else f"{asking.kind.value} {asking.id} asks what it made; cancel that first"


def _drop_results(session: Session, file_ids: Sequence[str]) -> list[str]:
    """Delete the records of a job's result files, and give the digests of those that were there."""
    session.execute(sql_delete(ExpiredFileRecord).where(ExpiredFileRecord.id.in_(file_ids)))
    dropped = sql_delete(FileRecord).where(FileRecord.id.in_(file_ids)).returning(FileRecord.sha256)
    return list(session.scalars(dropped.execution_options(synchronize_session=False)))
