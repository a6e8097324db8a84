"""Jobs of every kind, with all that is written down while they run."""

from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.jobs.events import EventLevel, EventType
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store.tables.record import DIGEST, ID, Record


class JobRecord(Record):
    """A job of any kind. Once its status is terminal, a trigger refuses every change of the row."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_id", "status", "id"),
        Index("ix_jobs_kind_id", "kind", "id"),
        Index("ix_jobs_status_kind_id", "status", "kind", "id"),
        Index("ix_jobs_status_kind_base_model_id", "status", "kind", "base_model", "id"),
        Index("ix_jobs_training_file_id_status", "training_file_id", "status"),
        Index("ix_jobs_validation_file_id_status", "validation_file_id", "status"),
        Index("ix_jobs_caller_request_sha256_id", "caller", "request_sha256", "id"),
        Index("ix_jobs_rerun_of", "rerun_of"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # ftjob-…, eval-…, export-…
    kind: Mapped[JobKind] = mapped_column(default=JobKind.FINE_TUNING)
    caller: Mapped[str]
    status: Mapped[JobStatus]
    spec: Mapped[dict[str, Any]]  # of its kind: JobSpec, EvaluationSpec, …, as JSON
    requested: Mapped[dict[str, Any]]  # the request's fields as they were sent
    spec_sha256: Mapped[str] = mapped_column(DIGEST)
    request_sha256: Mapped[str] = mapped_column(DIGEST)
    suffix: Mapped[str | None]
    estimate: Mapped[dict[str, Any] | None]  # core.estimates.estimate.Estimate as it was when the job was made
    estimate_seconds: Mapped[float | None] = mapped_column(
        Double
    )  # all of its estimate's; kept apart so that a queue's can be added up
    job_metadata: Mapped[dict[str, Any] | None]
    training_file_id: Mapped[str] = mapped_column(
        ID
    )  # of an evaluation: the file whose rows are judged; of an export: none
    validation_file_id: Mapped[str | None] = mapped_column(ID)
    base_model: Mapped[str]
    continue_from_sha256: Mapped[str | None] = mapped_column(DIGEST, index=True)  # of the manifest; also in the spec
    rerun_of: Mapped[str | None] = mapped_column(ID)  # the job that this one makes again

    token: Mapped[int] = mapped_column(Integer, default=0)  # grows with each claim; a write of a worker must name it
    hb_seq: Mapped[int] = mapped_column(
        BigInteger, default=0
    )  # heartbeats so far; a worker that lets it rest loses the job
    owner: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    cancel_requested_at: Mapped[int | None] = mapped_column(BigInteger)
    pause_requested_at: Mapped[int | None] = mapped_column(BigInteger)  # None again once it is resumed
    notified_at: Mapped[int | None] = mapped_column("rung_at", BigInteger)  # when workers were last told of it
    waiting_reason: Mapped[str | None]  # why the host of its last attempt could not run it; None: it waits its turn

    event_seq: Mapped[int] = mapped_column(Integer, default=0)  # number of its newest event
    progress: Mapped[dict[str, Any] | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    trained_on: Mapped[str | None]  # a sentence
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]
    fine_tuned_model: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)  # of the first attempt
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class JobMetadataRecord(Record):
    """One pair of a job's ``job_metadata``, by which jobs are found."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index("ix_job_metadata_key_value_job_id", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str]


class AttemptRecord(Record):
    """One claim of a job, from then until its worker ended it or lost it."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_host_ended_at", "host", "ended_at"),)

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    token: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[int] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    # succeeded, failed, cancelled, released, unfit, unsuited, unpublished, lost, or what the worker calls it
    outcome: Mapped[str | None]
    retry_after_s: Mapped[int | None]  # for so long after its end this host leaves the job alone
    exit_signal: Mapped[int | None]
    last_step: Mapped[int | None]
    resumed_from_step: Mapped[int | None]


class EventRecord(Record):
    """One entry of a job's list of events, numbered from 1 without gaps; the oldest may leave long after its end."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "seq"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # ftevent-…
    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"))
    seq: Mapped[int]
    level: Mapped[EventLevel]
    type: Mapped[EventType]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[int] = mapped_column(BigInteger)


class CheckpointRecord(Record):
    """A checkpoint of a job that can be served: its adapter is the blob ``adapter_sha256``."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # ftckpt-…
    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"))
    step: Mapped[int]
    name: Mapped[str] = mapped_column(Text, unique=True)  # …:ckpt-step-N
    adapter_sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[int] = mapped_column(BigInteger)


class JobAdapterRecord(Record):
    """An adapter that a job asks or exports; its bytes stay as long as the job has not ended."""

    __tablename__ = "job_adapters"

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    adapter_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)  # of its manifest


class IdempotencyRecord(Record):
    """What an Idempotency-Key was first used for."""

    __tablename__ = "idempotency"

    caller: Mapped[str] = mapped_column(Text, primary_key=True)
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    body_sha256: Mapped[str] = mapped_column(DIGEST)
    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)
