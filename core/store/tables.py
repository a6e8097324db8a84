"""The tables. Timestamps are whole Unix seconds (UTC), as the API serves them.

How rows come to be, move and are found is in the modules beside this one; `migrations/`
makes the tables and holds what SQLAlchemy's metadata cannot say: the trigger on ended jobs, and the views.
"""

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    column,
    table,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.experiments.status import ExperimentStatus
from core.jobs.events import EventLevel, EventType
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus


class FileStatus(StrEnum):
    """OpenAI's names. Files are checked while they arrive, so there is no state in between."""

    PROCESSED = "processed"
    ERROR = "error"


class AdapterState(StrEnum):
    LIVE = "live"
    DELETED = "deleted"


class AliasAction(StrEnum):
    SET = "set"
    ROLLBACK = "rollback"
    DELETE = "delete"


class BlobState(StrEnum):
    LIVE = "live"
    DELETING = "deleting"  # a collector has decided; whoever wants the same bytes waits until the row is gone


def _as_text(values: type[StrEnum], name: str, *, is_checked: bool = True) -> Enum:
    """Store an enum as its text, with a CHECK of that name."""
    return Enum(
        values,
        name=name,
        native_enum=False,
        create_constraint=is_checked,
        length=16,
        values_callable=lambda enum: [member.value for member in enum],
    )


class Record(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration
        str: Text,
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(none_as_null=True),
        FileStatus: _as_text(FileStatus, "status"),
        JobStatus: _as_text(JobStatus, "status"),
        AdapterState: _as_text(AdapterState, "state"),
        AliasAction: _as_text(AliasAction, "action"),
        BlobState: _as_text(BlobState, "state"),
        JobKind: _as_text(JobKind, "kind", is_checked=False),  # came later: SQLite adds no CHECK to a table
        ExperimentStatus: _as_text(ExperimentStatus, "status"),
        EventLevel: _as_text(EventLevel, "level"),
        EventType: _as_text(EventType, "type"),
    }


_Id = String(64)
_Digest = String(64)


class FileRecord(Record):
    """A file, uploaded or made by a job; its bytes are the blob ``sha256``."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_purpose_id", "purpose", "id"),)

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # file-…
    caller: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(_Digest, index=True)
    status: Mapped[FileStatus]
    status_details: Mapped[str | None]  # why it cannot be trained on
    file_type: Mapped[str] = mapped_column(Text)
    example_format: Mapped[str | None]  # core.text.files.examples.ExampleFormat
    columns: Mapped[list[str] | None]
    examples: Mapped[int]
    created_at: Mapped[int] = mapped_column(BigInteger)


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
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # ftjob-…, eval-…
    kind: Mapped[JobKind] = mapped_column(default=JobKind.FINE_TUNING)
    caller: Mapped[str]
    status: Mapped[JobStatus]
    spec: Mapped[dict[str, Any]]  # of its kind: JobSpec or EvaluationSpec, as JSON
    requested: Mapped[dict[str, Any]]  # the request's fields as they were sent
    spec_sha256: Mapped[str] = mapped_column(_Digest)
    request_sha256: Mapped[str] = mapped_column(_Digest)
    suffix: Mapped[str | None]
    estimate: Mapped[dict[str, Any] | None]  # core.estimates.estimate.Estimate as it was when the job was made
    estimate_seconds: Mapped[float | None] = mapped_column(
        Double
    )  # all of its estimate's; kept apart so that a queue's can be added up
    job_metadata: Mapped[dict[str, Any] | None]
    training_file_id: Mapped[str] = mapped_column(_Id)  # of an evaluation: the file whose rows are judged
    validation_file_id: Mapped[str | None] = mapped_column(_Id)
    base_model: Mapped[str]
    continue_from_sha256: Mapped[str | None] = mapped_column(_Digest, index=True)  # of the manifest; also in the spec
    rerun_of: Mapped[str | None] = mapped_column(_Id)  # the job that this one makes again

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

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str]


class AttemptRecord(Record):
    """One claim of a job, from then until its worker ended it or lost it."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_host_ended_at", "host", "ended_at"),)

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
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
    """One entry of a job's append-only list of events, numbered from 1 without gaps."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "seq"),)

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # ftevent-…
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"))
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

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # ftckpt-…
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"))
    step: Mapped[int]
    name: Mapped[str] = mapped_column(Text, unique=True)  # …:ckpt-step-N
    adapter_sha256: Mapped[str] = mapped_column(_Digest, index=True)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[int] = mapped_column(BigInteger)


class AdapterRecord(Record):
    """A job's published result, served under ``name``; where its job named a family, one of the family's versions."""

    __tablename__ = "adapters"
    __table_args__ = (
        Index("ix_adapters_state_id", "state", "id"),
        Index("ix_adapters_organization_suffix_version", "organization", "suffix", "version", unique=True),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # adapter-…
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), unique=True)
    token: Mapped[int]  # of the attempt that published it
    name: Mapped[str] = mapped_column(Text, unique=True)  # ft:…
    base_model: Mapped[str]
    adapter_sha256: Mapped[str] = mapped_column(_Digest, index=True)  # of its manifest
    bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[AdapterState]
    organization: Mapped[str | None]  # this and the next two: None where its job named no family
    suffix: Mapped[str | None]
    version: Mapped[int | None]
    created_at: Mapped[int] = mapped_column(BigInteger)


class ModelFamilyRecord(Record):
    """Models of one organisation and suffix. Their versions are numbered from 1, and no number is given twice."""

    __tablename__ = "model_families"

    organization: Mapped[str] = mapped_column(Text, primary_key=True)
    suffix: Mapped[str] = mapped_column(Text, primary_key=True)
    newest: Mapped[int]


class AliasRecord(Record):
    """A name for a model, or for two by percent. The row stays when the alias is deleted: its moves are numbered on."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str | None] = mapped_column(Text, index=True)  # None: deleted
    canary: Mapped[str | None] = mapped_column(Text, index=True)
    percent: Mapped[int | None]  # of its callers, that the canary answers
    move: Mapped[int]  # number of its newest move
    created_at: Mapped[int] = mapped_column(BigInteger)  # since it was last deleted
    moved_at: Mapped[int] = mapped_column(BigInteger)


class AliasMoveRecord(Record):
    """One entry of an alias' append-only history, numbered from 1 without gaps."""

    __tablename__ = "alias_moves"

    alias: Mapped[str] = mapped_column(Text, ForeignKey("aliases.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[AliasAction]
    caller: Mapped[str]
    before: Mapped[dict[str, Any] | None]  # core.store.aliases.AliasState; None: there was no such alias
    after: Mapped[dict[str, Any] | None]  # the same; None: deleted
    reason: Mapped[str | None]
    gate: Mapped[dict[str, Any] | None]  # core.store.aliases.PassedGate
    back_to: Mapped[int | None]  # the move whose state a rollback from here restores
    created_at: Mapped[int] = mapped_column(BigInteger)


class AliasAnswersRecord(Record):
    """What a model answered for an alias from one of its moves to the next; API processes add to it."""

    __tablename__ = "alias_answers"

    alias: Mapped[str] = mapped_column(Text, primary_key=True)
    move: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    answers: Mapped[int] = mapped_column(BigInteger)  # that were whole
    stopped: Mapped[int] = mapped_column(BigInteger)  # of those, that the model closed or a stop sequence ended
    failed: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)  # of whole answers, as `seconds` is
    seconds: Mapped[float] = mapped_column(Double)


class EvaluationAdapterRecord(Record):
    """An adapter that an evaluation asks; its bytes stay as long as the evaluation has not ended."""

    __tablename__ = "evaluation_adapters"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    adapter_sha256: Mapped[str] = mapped_column(_Digest, primary_key=True, index=True)  # of its manifest


class EvaluationExampleRecord(Record):
    """A row that an evaluation asks its models, numbered from 0 in the order of the file's lines."""

    __tablename__ = "evaluation_examples"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[int]
    cluster: Mapped[str] = mapped_column(String(16))  # equal for rows of one normalised prompt
    prompt: Mapped[str]
    reference: Mapped[str]


class EvaluationRowRecord(Record):
    """What one model made of one row. Its key is why no row is scored twice, however often a worker dies."""

    __tablename__ = "evaluation_rows"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    model_index: Mapped[int] = mapped_column(primary_key=True)  # its place among the evaluation's models, from 0
    row: Mapped[int] = mapped_column(primary_key=True)
    answer: Mapped[str | None]  # None: no metric needs one
    stopped: Mapped[bool | None] = mapped_column(Boolean)  # the model closed its answer itself
    tokens: Mapped[int]  # of the reference, that the model was scored on
    scores: Mapped[dict[str, Any]]  # a number or null by metric


class ExperimentRecord(Record):
    """Arms that are trained and compared. What is done next follows from its plan and from what became of its jobs."""

    __tablename__ = "experiments"
    __table_args__ = (
        Index("ix_experiments_status_id", "status", "id"),
        UniqueConstraint("caller", "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)  # exp-…
    caller: Mapped[str]
    idempotency_key: Mapped[str | None]
    status: Mapped[ExperimentStatus]
    requested: Mapped[dict[str, Any]]  # the request's fields as they were sent
    request_sha256: Mapped[str] = mapped_column(_Digest)
    plan: Mapped[dict[str, Any]]  # core.experiments.plan.ExperimentPlan
    version: Mapped[int] = mapped_column(default=0)  # grows with each step; a step must name the one it was decided by
    pruned: Mapped[list[dict[str, Any]] | None]  # core.experiments.pruning.PrunedArm; None: nothing is decided yet
    stopped: Mapped[str | None]  # why not all seeds were trained
    choosing_id: Mapped[str | None] = mapped_column(_Id)  # the evaluation by which arms are pruned
    judging_id: Mapped[str | None] = mapped_column(_Id)  # the one that verdicts go by
    error: Mapped[str | None]  # a sentence
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class ExperimentRunRecord(Record):
    """A job that an experiment made. Its key is why no run is made twice."""

    __tablename__ = "experiment_runs"

    experiment_id: Mapped[str] = mapped_column(_Id, ForeignKey("experiments.id"), primary_key=True)
    arm: Mapped[int] = mapped_column(primary_key=True)  # its place in the plan
    seed: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    rate_factor: Mapped[float] = mapped_column(Double, primary_key=True)  # of the arm's learning rate
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), unique=True)
    judged_as: Mapped[str | None]  # the model whose scores count for this run's, as it has the same bytes


class ExperimentFileRecord(Record):
    """A file that an experiment needs as long as it runs."""

    __tablename__ = "experiment_files"

    file_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(_Id, ForeignKey("experiments.id"), primary_key=True)


class IdempotencyRecord(Record):
    """What an Idempotency-Key was first used for."""

    __tablename__ = "idempotency"

    caller: Mapped[str] = mapped_column(Text, primary_key=True)
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    body_sha256: Mapped[str] = mapped_column(_Digest)
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)


class BlobRecord(Record):
    """Stored content. The row comes before the bytes and leaves after them; who refers to it is `BLOB_REFERENCES`."""

    __tablename__ = "blobs"
    __table_args__ = (Index("ix_blobs_state_touched_at", "state", "touched_at"),)

    sha256: Mapped[str] = mapped_column(_Digest, primary_key=True)
    bytes: Mapped[int | None] = mapped_column(BigInteger)  # None: of an older version, and not measured yet
    state: Mapped[BlobState]
    touched_at: Mapped[int] = mapped_column(BigInteger)  # when it was last stored or let go of, by the database's clock


class BlobPartRecord(Record):
    """A file that an adapter's manifest names: as long as something refers to the manifest, it refers to the file."""

    __tablename__ = "blob_parts"

    manifest_sha256: Mapped[str] = mapped_column(_Digest, primary_key=True)
    sha256: Mapped[str] = mapped_column(_Digest, primary_key=True, index=True)


# Views: what refers to which manifest; and what refers to which blob, manifests and their parts among them. A blob
# that is in no row of the second is nobody's.
MANIFEST_REFERENCES: Final = table("manifest_references", column("sha256", _Digest))
BLOB_REFERENCES: Final = table("blob_references", column("sha256", _Digest))
