"""Wire types of evaluations, which are our own."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from app.fine_tuning.schemas import JobErrorOut
from app.http.field_types import Many, Stop, StoredText, described_by
from app.http.wire import Body, Out, Query
from core.evaluations.scores import ScoredRow
from core.evaluations.spec import MAX_MODELS, MAX_ROWS, EvaluationSpec
from core.jobs.status import JobStatus
from core.scoring.exactness import Normalization
from core.store.evaluations import AnsweredRow
from core.store.tables import JobRecord
from core.text.render_settings import PromptFormat
from core.values import AutoBool, AutoInt

DEFAULT_METRICS: Final = (
    "nats_per_token",
    "token_accuracy",
    "reference_probability",
    "exact_match",
    "chrf",
    "stop_rate",
    "length_ratio",
)
DEFAULT_ROWS: Final = 1000
MAX_NEW_TOKENS: Final = 4096  # of one answer
MAX_GATES: Final = 16


class EvaluationSampling(Body):
    """How answers are drawn; greedily where nothing is said."""

    max_tokens: AutoInt = Field(None, ge=1, le=MAX_NEW_TOKENS, description="Of an answer; auto: by the references.")
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[Many[Stop], Field(max_length=16)] = ()


class EvaluationCreate(Body):
    """Asks for an evaluation: rows of a file, or the held-out part of a job, and the models that are to answer them."""

    model_config = described_by(
        {
            "models": ["smollm2-135m-instruct"],
            "file": "file-06h2n5v3kl7q9",
            "metrics": ["nats_per_token", "exact_match"],
            "max_rows": 200,
        }
    )

    models: Annotated[Many[StoredText], Field(min_length=1, max_length=MAX_MODELS)]
    file: StoredText | None = None
    job: StoredText | None = Field(None, description="Whose held-out part is asked, in place of a file.")
    metrics: Annotated[Many[StoredText], Field(min_length=1, max_length=32)] = DEFAULT_METRICS
    normalization: Normalization = Field("strip", description="What exact_match leaves aside.")
    sampling: EvaluationSampling = EvaluationSampling()
    max_rows: int = Field(DEFAULT_ROWS, ge=2, le=MAX_ROWS, description="Chosen by the hash of their prompts.")
    gate: Annotated[Many[StoredText], Field(max_length=MAX_GATES)] = ()
    memory: AutoBool = Field(None, description="Report on what adapters forgot and learnt by heart; auto: if it can.")
    prompt_format: PromptFormat | None = None
    max_length: AutoInt = Field(None, ge=8, lt=2**31)


class EvaluationRowsQuery(Query):
    """Which rows, in which order: the file's, or by a metric of a model, or by how far it is from another model's."""

    after: int | None = Field(None, ge=0, description="The row that was seen last.")
    limit: int = Field(20, ge=1, le=100)
    sort: str | None = Field(None, description="A metric; null: the file's order.")
    model: str | None = Field(None, description="Whose score is sorted by; null: the last one's.")
    against: str | None = Field(None, description="Sort by how much higher the model's score is than this one's.")
    order: Literal["asc", "desc"] = "asc"


class EvaluationOut(Out):
    """An evaluation with the values in force, every "auto" resolved. ``result`` is null until it has succeeded."""

    id: str
    object: Literal["evaluation"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: str
    base_model: str
    models: list[str]
    file: str
    job: str | None  # whose held-out part of the file is asked; null: all of it is
    rows: int
    too_long: int  # rows that were chosen and are too long to be asked
    learnt: int  # rows that were left out because a model was trained on them; only where a training asks
    metrics: list[str]
    normalization: str
    sampling: dict[str, Any]
    gate: list[str]
    memory: bool  # whether there is a report on what adapters forgot and learnt by heart
    prompt_format: PromptFormat | None
    max_length: int
    unchecked_models: list[str]  # of which nobody knows any more what they were trained on
    progress: dict[str, Any] | None
    queue_position: int | None  # 1: next; null: not queued
    waiting_reason: str | None
    error: JobErrorOut | None
    result_files: list[str]
    result: dict[str, Any] | None

    @classmethod
    def of(cls, job: JobRecord, *, queue_position: int | None) -> "EvaluationOut":
        spec = EvaluationSpec.model_validate(job.spec)
        result = dict(job.result or {})
        files = result.pop("result_files", [])
        return cls(
            id=job.id,
            object="evaluation",
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            status=job.status,
            base_model=spec.base_model,
            models=[model.name for model in spec.models],
            file=spec.file.id,
            job=spec.job,
            rows=len(spec.lines),
            too_long=spec.too_long,
            learnt=spec.learnt,
            metrics=list(spec.metrics),
            normalization=spec.normalization,
            sampling=_sampling_of(spec),
            gate=list(spec.gates),
            memory=spec.general_text is not None,
            prompt_format=spec.prompt_format,
            max_length=spec.max_length,
            unchecked_models=list(spec.unchecked_models),
            progress=job.progress,
            queue_position=queue_position,
            waiting_reason=job.waiting_reason if job.status is JobStatus.QUEUED else None,
            error=JobErrorOut.of(job),
            result_files=files,
            result=result or None,
        )


class RowAnswerOut(Out):
    """What one model made of a row."""

    model: str
    answer: str | None  # null: no metric needs one
    stopped: bool | None
    tokens: int  # of the reference, that it was scored on
    scores: dict[str, float | None]  # null: not defined for this row

    @classmethod
    def of(cls, scored: ScoredRow, model: str) -> "RowAnswerOut":
        return cls(
            model=model, answer=scored.answer, stopped=scored.stopped, tokens=scored.tokens, scores=scored.scores
        )


class EvaluationRowOut(Out):
    """A row with what the models made of it so far."""

    row: int
    line: int
    cluster: str  # equal for rows of one prompt
    prompt: str
    reference: str
    answers: list[RowAnswerOut]

    @classmethod
    def of(cls, answered: AnsweredRow, models: list[str]) -> "EvaluationRowOut":
        return cls(
            row=answered.row,
            line=answered.line,
            cluster=answered.cluster,
            prompt=answered.prompt,
            reference=answered.reference,
            answers=[
                RowAnswerOut.of(scored, model)
                for scored, model in zip(answered.answers, models, strict=True)
                if scored is not None
            ],
        )


class EvaluationRowsOut(Out):
    """One page of rows; clients go on with ``after=<last row>`` while ``has_more`` is true."""

    object: Literal["list"]
    data: list[EvaluationRowOut]
    has_more: bool


def _sampling_of(spec: EvaluationSpec) -> dict[str, Any]:
    told: dict[str, Any] = spec.sampling.model_dump(mode="json", include=set(EvaluationSampling.model_fields))
    return told
