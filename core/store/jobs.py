"""Jobs in the database, which is their queue: made and found.

How people cancel, pause and resume them is in `core.store.queue.control`, how workers take and end them in
`core.store.queue.leases`, which place they have in `core.store.queue.waiting_line`. ``now`` is only ever recorded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased, load_only

from core.errors import FileNotStored, IdempotencyInProgress
from core.estimates.estimate import Estimate
from core.evaluations.spec import EvaluationSpec
from core.exports.spec import ExportSpec
from core.ids import new_id
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, FileRef, JobSpec
from core.jobs.status import TERMINAL, JobStatus
from core.store import adapters
from core.store.db import Session
from core.store.queue.control import NOT_FOUND
from core.store.tables import (
    FileRecord,
    IdempotencyRecord,
    JobAdapterRecord,
    JobMetadataRecord,
    JobRecord,
)

_ID_PREFIXES = {JobKind.FINE_TUNING: "ftjob-", JobKind.EVALUATION: "eval-", JobKind.EXPORT: "export-"}


@dataclass(frozen=True)
class NewJob:
    """A job that is asked for; its specification says of which kind."""

    caller: str
    spec: JobSpec | EvaluationSpec | ExportSpec
    requested: dict[str, Any]  # the request's fields as they were sent
    request_sha256: str
    suffix: str | None = None  # of the model's name
    metadata: dict[str, str] | None = None
    estimate: Estimate | None = None
    rerun_of: str | None = None  # the job that it makes again


@dataclass(frozen=True)
class IdempotencyKey:
    """An Idempotency-Key, which counts for its caller and route alone."""

    caller: str
    route: str
    key: str


def new_job_id(kind: JobKind) -> str:
    """Give the id of a job that is yet to be made."""
    return new_id(_ID_PREFIXES[kind])


def create(session: Session, new: NewJob, now: int, *, job_id: str | None = None) -> JobRecord:
    """Record a queued job. The files it names cannot be deleted until it ends; adapters can, but not their bytes.

    Args:
        job_id: of `new_job_id`, where something had to name the job before; None: a new one.

    Raises:
        FileNotStored: a file of the specification was deleted meanwhile.
        InvalidParameter: an adapter of the specification was deleted meanwhile.
    """
    spec, inputs = new.spec, _inputs_of(new.spec)
    for file in filter(None, (inputs.file, inputs.validation_file)):
        # FOR SHARE: a deletion under way is waited for, and seen
        stored = session.scalar(select(FileRecord.id).where(FileRecord.id == file.id).with_for_update(read=True))
        if stored is None:
            raise FileNotStored(file.id)
    for param, adapter in inputs.adapters:
        adapters.keep_served(session, adapter, param)
    dumped = spec.model_dump(mode="json")
    canonical = json.dumps(dumped, sort_keys=True, separators=(",", ":"))
    job = JobRecord(
        id=job_id or new_job_id(inputs.kind),
        kind=inputs.kind,
        caller=new.caller,
        status=JobStatus.QUEUED,
        spec=dumped,
        requested=new.requested,
        spec_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        request_sha256=new.request_sha256,
        suffix=new.suffix,
        estimate=None if new.estimate is None else new.estimate.model_dump(mode="json"),
        estimate_seconds=None if new.estimate is None or new.estimate.seconds is None else new.estimate.seconds.total,
        job_metadata=new.metadata,
        training_file_id="" if inputs.file is None else inputs.file.id,
        validation_file_id=None if inputs.validation_file is None else inputs.validation_file.id,
        base_model=spec.base_model,
        rerun_of=new.rerun_of,
        continue_from_sha256=None if inputs.continue_from is None else inputs.continue_from.adapter_sha256,
        created_at=now,
    )
    session.add(job)
    session.flush()
    pairs = (new.metadata or {}).items()
    session.add_all(JobMetadataRecord(job_id=job.id, key=key, value=value) for key, value in pairs)
    if inputs.kind is not JobKind.FINE_TUNING:  # of which the job's own row names the adapter
        asked = sorted({adapter.adapter_sha256 for _, adapter in inputs.adapters})
        session.add_all(JobAdapterRecord(job_id=job.id, adapter_sha256=sha256) for sha256 in asked)
    session.flush()
    return job


@dataclass(frozen=True)
class _Inputs:
    """What a job needs until it ends; an adapter beside the request's field that names it."""

    kind: JobKind
    file: FileRef | None
    validation_file: FileRef | None
    adapters: tuple[tuple[str, AdapterRef], ...]
    continue_from: AdapterRef | None


def _inputs_of(spec: JobSpec | EvaluationSpec | ExportSpec) -> _Inputs:
    if isinstance(spec, ExportSpec):
        return _Inputs(JobKind.EXPORT, None, None, (("model", spec.adapter),), None)
    if isinstance(spec, EvaluationSpec):
        named = tuple(
            (f"models[{place}]", model.adapter) for place, model in enumerate(spec.models) if model.adapter is not None
        )
        return _Inputs(JobKind.EVALUATION, spec.file, None, named, None)
    earlier = spec.continue_from
    named = () if earlier is None else (("continue_from", earlier),)
    return _Inputs(JobKind.FINE_TUNING, spec.training_file, spec.validation_file, named, earlier)


def get(session: Session, job_id: str, kind: JobKind = JobKind.FINE_TUNING) -> JobRecord:
    """Give the row of a job of a kind.

    Raises:
        JobNotFound, EvaluationNotFound, ExportNotFound: there is none.
    """
    job = session.get(JobRecord, job_id)
    if job is None or job.kind is not kind:
        raise NOT_FOUND[kind](job_id)
    return job


def list_page(
    session: Session,
    *,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | None = None,
    kind: JobKind = JobKind.FINE_TUNING,
) -> tuple[Sequence[JobRecord], bool]:
    """List jobs of a kind newest first, and tell whether there are older ones.

    Args:
        after: id of the last job already seen; None starts with the newest.
        metadata: only jobs that carry all of these pairs; None gives all.
    """
    first, *others = (metadata or {}).items() or (None,)
    if first is None:
        query, newest_first = select(JobRecord).where(JobRecord.kind == kind), JobRecord.id
    else:
        # walked in the index of the pair, so that a rare one is found without reading every job
        query = select(JobRecord).join(JobMetadataRecord, JobMetadataRecord.job_id == JobRecord.id)
        query = query.where(_is_pair(JobMetadataRecord, *first), JobRecord.kind == kind)
        newest_first = JobMetadataRecord.job_id
    for pair in others:
        other = aliased(JobMetadataRecord)
        query = query.where(exists().where(other.job_id == JobRecord.id, _is_pair(other, *pair)))
    if after is not None:
        query = query.where(newest_first < after)
    rows = session.scalars(query.order_by(newest_first.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _is_pair(record: type[JobMetadataRecord], key: str, value: str) -> ColumnElement[bool]:
    return and_(record.key == key, record.value == value)


def list_succeeded(session: Session, base_model: str, *, limit: int) -> Sequence[JobRecord]:
    """List a base model's newest trainings that succeeded, newest first; only their specs and results are read."""
    succeeded = (
        JobRecord.status == JobStatus.SUCCEEDED,
        JobRecord.kind == JobKind.FINE_TUNING,
        JobRecord.base_model == base_model,
    )
    read = load_only(JobRecord.spec, JobRecord.result)
    newest = select(JobRecord).where(*succeeded).order_by(JobRecord.id.desc()).limit(limit)
    return session.scalars(newest.options(read)).all()


def list_ended(session: Session, ids: Sequence[str]) -> Sequence[str]:
    """List those of the jobs that have ended."""
    return session.scalars(select(JobRecord.id).where(JobRecord.id.in_(ids), JobRecord.status.in_(TERMINAL))).all()


def find_recent_duplicate(
    session: Session, caller: str, request_sha256: str, since: int, kind: JobKind = JobKind.FINE_TUNING
) -> JobRecord | None:
    """Find the caller's newest job of a kind made of the same request at ``since`` or later.

    Jobs that failed or were cancelled do not count: posting those again means to try again.
    """
    return session.scalar(
        select(JobRecord)
        .where(
            JobRecord.caller == caller,
            JobRecord.request_sha256 == request_sha256,
            JobRecord.kind == kind,
            JobRecord.created_at >= since,
            JobRecord.status.not_in((JobStatus.FAILED, JobStatus.CANCELLED)),
        )
        .order_by(JobRecord.id.desc())
        .limit(1)
    )


def find_idempotent(session: Session, key: IdempotencyKey) -> IdempotencyRecord | None:
    """Find what an Idempotency-Key was used for."""
    return session.get(IdempotencyRecord, astuple(key))


def remember_idempotent(session: Session, key: IdempotencyKey, *, body_sha256: str, job_id: str, now: int) -> None:
    """Tie an Idempotency-Key to the job that the same transaction makes.

    Raises:
        IdempotencyInProgress: another transaction did so at the same time; this one must be rolled back.
    """
    session.add(IdempotencyRecord(**asdict(key), body_sha256=body_sha256, job_id=job_id, created_at=now))
    try:
        session.flush()
    except IntegrityError as error:
        raise IdempotencyInProgress from error


def list_to_notify(session: Session, *, before: int, limit: int) -> list[str]:
    """List the oldest queued jobs that workers were never notified of, or not since ``before``."""
    is_due = or_(JobRecord.notified_at.is_(None), JobRecord.notified_at < before)
    return list(
        session.scalars(
            select(JobRecord.id).where(JobRecord.status == JobStatus.QUEUED, is_due).order_by(JobRecord.id).limit(limit)
        )
    )


def mark_notified(session: Session, ids: Sequence[str], now: int) -> None:
    """Record that workers were notified of these jobs; those that wait no longer are left alone."""
    session.execute(
        update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.status == JobStatus.QUEUED)
        .values(notified_at=now)
        .execution_options(synchronize_session=False)
    )
