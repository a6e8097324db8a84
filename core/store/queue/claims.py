"""Queued jobs taken by workers: the oldest of a kind, and those that can be trained beside it.

Of any number of callers at once exactly one gets a job. What its worker may do with the lease that a claim gives is in
`leases`. ``now`` is only recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, select, true, update

from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store.db import Session
from core.store.queue import unfit_hosts
from core.store.tables import AttemptRecord, JobRecord

_LOOKED_AT: Final = 64  # jobs that could be trained together with another one


@dataclass(frozen=True)
class WorkerIdentity:
    """Who claims. ``owner`` names this worker process and none before or after it; never host or pid alone."""

    owner: str
    host: str
    pid: int


def claim(
    session: Session,
    worker: WorkerIdentity,
    base_models: Sequence[str],
    now: int,
    *,
    kind: JobKind = JobKind.FINE_TUNING,
    given_back_last: bool = False,
) -> JobRecord | None:
    """Take the oldest queued job of a kind and of these base models; None when there is none.

    Jobs that the worker's host could not run a short while ago are passed over (``core.store.queue.unfit_hosts``).
    Of any number of callers at once exactly one gets a job.

    Args:
        given_back_last: a job that this host has given back is taken only where there is no other.
    """
    names = _by_age(session, worker, base_models, now, kind)
    passes = [~unfit_hosts.given_back(worker.host)] if given_back_last else []
    jobs = (_claim_oldest(session, worker, name, now, kind, only) for only in (*passes, true()) for name in names)
    job = next(filter(None, jobs), None)
    if job is not None:
        _begin_attempt(session, worker, job, now)
    return job


def claim_beside(
    session: Session,
    worker: WorkerIdentity,
    job: JobRecord,
    now: int,
    *,
    at_most: int,
    fit: Callable[[Sequence[JobRecord]], bool],
) -> list[JobRecord]:
    """Take queued jobs of a claimed job's base model and training file too, the oldest first.

    Those of which an attempt counts already are passed over, and so are reruns, which repeat one job and no other.

    Args:
        fit: tells whether jobs may be taken together, ``job`` and those taken so far among them.
    """
    waiting = (
        select(JobRecord.id)
        .where(JobRecord.training_file_id == job.training_file_id, JobRecord.status == JobStatus.QUEUED)
        .where(JobRecord.base_model == job.base_model, JobRecord.kind == job.kind, JobRecord.attempts == 0)
        .where(~unfit_hosts.left_alone(worker.host, now), JobRecord.rerun_of.is_(None))
    )
    # sorted here: no index has them in the order of their ages
    oldest = sorted(session.scalars(waiting))[:_LOOKED_AT]
    taken: list[JobRecord] = []
    for job_id in oldest:
        if len(taken) < at_most and fit([job, *taken, session.get_one(JobRecord, job_id)]):
            found = _claim_where(session, worker, JobRecord.id == job_id, now)
            if found is not None:
                _begin_attempt(session, worker, found, now)
                taken.append(found)
    return taken


def _begin_attempt(session: Session, worker: WorkerIdentity, job: JobRecord, now: int) -> None:
    session.add(
        AttemptRecord(
            job_id=job.id, token=job.token, owner=worker.owner, host=worker.host, pid=worker.pid, started_at=now
        )
    )
    session.flush()


def _by_age(
    session: Session, worker: WorkerIdentity, base_models: Sequence[str], now: int, kind: JobKind
) -> Sequence[str]:
    """Give those of the base models that jobs wait for which this worker may take, the one with the oldest first."""
    if len(base_models) == 1:
        return base_models
    # one lookup in an index each, where one for all of them would read and sort every waiting job
    waits = (JobRecord.status == JobStatus.QUEUED, JobRecord.kind == kind, ~unfit_hosts.left_alone(worker.host, now))
    oldest = {
        name: session.scalar(
            select(JobRecord.id).where(*waits, JobRecord.base_model == name).order_by(JobRecord.id).limit(1)
        )
        for name in base_models
    }
    return [name for _, name in sorted((job_id, name) for name, job_id in oldest.items() if job_id is not None)]


def _claim_oldest(
    session: Session, worker: WorkerIdentity, base_model: str, now: int, kind: JobKind, only: ColumnElement[bool]
) -> JobRecord | None:
    oldest = (
        select(JobRecord.id)
        .where(JobRecord.status == JobStatus.QUEUED, JobRecord.kind == kind, JobRecord.base_model == base_model, only)
        .where(~unfit_hosts.left_alone(worker.host, now))
        .order_by(JobRecord.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return _claim_where(session, worker, JobRecord.id == oldest, now)


def _claim_where(
    session: Session, worker: WorkerIdentity, is_wanted: ColumnElement[bool], now: int
) -> JobRecord | None:
    return session.scalar(
        update(JobRecord)
        .where(is_wanted, JobRecord.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            token=JobRecord.token + 1,
            attempts=JobRecord.attempts + 1,
            hb_seq=JobRecord.hb_seq + 1,
            owner=worker.owner,
            started_at=func.coalesce(JobRecord.started_at, now),
            waiting_reason=None,
        )
        .returning(JobRecord)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
