"""OpenAI's wire types of fine-tuning, and our own fields beside theirs at the top level."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from app.http.field_types import ONLY_SUCH_KEYS, StoredText, Suffix, described_by, only
from app.http.wire import Body, Out, Query
from core.estimates.estimate import Estimate, Measured
from core.jobs.requested import HyperparameterFields, LoraFields, TrainingFields
from core.jobs.spec import JobEvaluation, JobSpec, TrainingSettings
from core.jobs.status import JobStatus
from core.provenance.comparison import Difference, RerunVerdict
from core.store.queue.control import is_pausing
from core.store.tables import CheckpointRecord, EventRecord, JobRecord

MAX_METADATA: Final = 16  # pairs of a job
MetadataKey = Annotated[StoredText, StringConstraints(max_length=64)]
MetadataValue = Annotated[StoredText, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA), ONLY_SUCH_KEYS]


class HyperparametersCreate(Body, HyperparameterFields):
    """Each "auto" is resolved when the job is created; see ``core.jobs.resolve``."""


class SupervisedCreate(Body):
    hyperparameters: HyperparametersCreate | None = None


class MethodCreate(Body):
    type: Annotated[str, only("supervised")]
    supervised: SupervisedCreate | None = None
    dpo: Annotated[Any, only()] = None
    reinforcement: Annotated[Any, only()] = None


class LoraCreate(Body, LoraFields):
    """LoRA's shape; ``target_modules`` can be "all-linear"."""


class JobEvaluationCreate(Body, JobEvaluation):
    """Metrics of held-out answers; at the end base model and adapter answer up to ``max_rows`` of them."""


class JobFields(Body, TrainingFields):
    """What a job is asked for beside its training file. All but ``model`` may be left out."""

    model: StoredText
    validation_file: StoredText | None = None
    suffix: Suffix | None = None
    lora: LoraCreate = LoraCreate()
    evaluation: JobEvaluationCreate | None = None
    hyperparameters: HyperparametersCreate | None = None
    method: MethodCreate | None = None
    metadata: Metadata | None = None
    integrations: Annotated[Any, only([])] = None
    continue_from: StoredText | None = None


class JobCreate(JobFields):
    """Asks for a fine-tuning job."""

    model_config = described_by(
        {
            "model": "smollm2-135m-instruct",
            "training_file": "file-06h2n5v3kl7q9",
            "suffix": "colours",
            "hyperparameters": {"n_epochs": 2},
        }
    )

    training_file: StoredText


class EventsQuery(Query):
    after: str | None = None
    limit: int = Field(20, ge=1, le=100)


class CheckpointsQuery(Query):
    after: str | None = None
    limit: int = Field(10, ge=1, le=100)


class HyperparametersOut(Out):
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class SupervisedOut(Out):
    hyperparameters: HyperparametersOut


class MethodOut(Out):
    type: Literal["supervised"]
    supervised: SupervisedOut


class RerunOut(Out):
    """What a job that makes another one again has come to; see `GET …/{id}/compare` for all that differs.

    ``same_weights`` null: it has not succeeded yet, or nothing is left to compare with. ``may_be_why``: of all that
    can change a bit, what differs; ``this`` is this job's.
    """

    of: str
    same_weights: bool | None
    may_be_why: tuple[Difference, ...]

    @classmethod
    def of_job(cls, job: JobRecord) -> "RerunOut | None":
        """Give it of a rerun; None for any other job."""
        if job.rerun_of is None:
            return None
        found = (job.result or {}).get("rerun")
        verdict = None if found is None else RerunVerdict.model_validate(found)
        return cls(
            of=job.rerun_of,
            same_weights=None if verdict is None else verdict.same_weights,
            may_be_why=() if verdict is None else verdict.may_be_why,
        )


class JobErrorOut(Out):
    code: str
    message: str
    param: str | None

    @classmethod
    def of(cls, job: JobRecord) -> "JobErrorOut | None":
        """Give why a job failed; None where it has not."""
        if job.error_code is None:
            return None
        return cls(code=job.error_code, message=job.error_message or "", param=job.error_param)


class ProtocolJobOut(Out):
    """The fields of a job that are OpenAI's."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    hyperparameters: HyperparametersOut
    method: MethodOut
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobErrorOut | None
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None


class JobOut(TrainingSettings, ProtocolJobOut):
    """A fine-tuning job with the values in force, every "auto" resolved.

    ``warmup_ratio`` null: made before the ratio was kept; 3 % of the steps, at least 5, at most a tenth.
    """

    # as of every answer: no field is left out, and a client takes fields that it does not know
    model_config = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)

    base_model_fingerprint: str | None  # what the job trains, whatever `model` comes to name; null: not kept yet then
    continue_from: str | None
    evaluation_id: str | None  # of the evaluation that base model and adapter were put to; null: there is none
    adapter_step: int | None  # after which step the published adapter stood; null: none is published
    started_at: int | None
    pausing: bool  # it runs, and is paused as soon as its worker has stopped it
    progress: dict[str, Any] | None
    queue_position: int | None  # 1: next; None: not queued
    waiting_reason: str | None  # why the last host to have it could not run it; None: it waits its turn, or not at all
    trained_on: str | None
    estimate: Estimate | None  # as it was when the job was made
    measured: Measured | None  # what it took, under the same names
    rerun: RerunOut | None  # of a job that makes another one again

    @classmethod
    def of(cls, job: JobRecord, *, organization: str, queue_position: int | None, now: int) -> "JobOut":
        spec = JobSpec.model_validate(job.spec)
        estimate = None if job.estimate is None else Estimate.model_validate(job.estimate)
        hyperparameters = HyperparametersOut(
            n_epochs=spec.n_epochs,
            batch_size=spec.batch_size,
            learning_rate_multiplier=spec.learning_rate_multiplier,
        )
        return cls(
            id=job.id,
            object="fine_tuning.job",
            created_at=job.created_at,
            finished_at=job.finished_at,
            model=job.base_model,
            fine_tuned_model=job.fine_tuned_model,
            organization_id=organization,
            status=job.status,
            hyperparameters=hyperparameters,
            method=MethodOut(type="supervised", supervised=SupervisedOut(hyperparameters=hyperparameters)),
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            result_files=(job.result or {}).get("result_files", []),
            trained_tokens=job.trained_tokens,
            error=JobErrorOut.of(job),
            estimated_finish=_estimated_finish(job, estimate, now),
            integrations=[],
            metadata=job.job_metadata,
            user_provided_suffix=job.suffix,
            **{name: getattr(spec, name) for name in TrainingSettings.model_fields},
            base_model_fingerprint=spec.base_model_fingerprint,
            continue_from=None if spec.continue_from is None else spec.continue_from.name,
            evaluation_id=(job.result or {}).get("evaluation_id"),
            adapter_step=(job.result or {}).get("adapter_step"),
            started_at=job.started_at,
            pausing=is_pausing(job),
            progress=job.progress,
            queue_position=queue_position,
            waiting_reason=job.waiting_reason if job.status is JobStatus.QUEUED else None,
            trained_on=job.trained_on,
            estimate=estimate,
            measured=Measured.of_result(job.result),
            rerun=RerunOut.of_job(job),
        )


def _estimated_finish(job: JobRecord, estimate: Estimate | None, now: int) -> int | None:
    """Give a running job's end: by its own speed, or before its first step by its estimate."""
    if job.status is not JobStatus.RUNNING or is_pausing(job):
        return None
    eta_s = (job.progress or {}).get("eta_s")
    if eta_s is not None:
        return now + round(float(eta_s))
    if estimate is None or estimate.seconds is None or job.started_at is None or job.token > 1:
        return None  # nor is it known how much of its time a later attempt can do without
    return max(now, job.started_at + round(estimate.seconds.total))


EventObject = Literal["fine_tuning.job.event", "evaluation.event", "model.export.event"]


class EventOut(Out):
    id: str
    object: EventObject
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: EventRecord, kind: EventObject = "fine_tuning.job.event") -> "EventOut":
        return cls(
            id=event.id,
            object=kind,
            created_at=event.created_at,
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data,
        )


class CheckpointOut(Out):
    """A checkpoint; ``fine_tuned_model_checkpoint`` can be used as a model's name."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, float | None]  # null: a mean over nothing

    @classmethod
    def of(cls, checkpoint: CheckpointRecord) -> "CheckpointOut":
        return cls(
            id=checkpoint.id,
            object="fine_tuning.job.checkpoint",
            created_at=checkpoint.created_at,
            fine_tuning_job_id=checkpoint.job_id,
            fine_tuned_model_checkpoint=checkpoint.name,
            step_number=checkpoint.step,
            metrics=checkpoint.metrics,
        )
