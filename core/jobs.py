"""What a fine-tune job is: its statuses, their transitions, and the resolved specification.

Knows no database and no HTTP: ``core.store.jobs`` writes statuses, ``app.schemas`` reads
requests. A specification is complete: every "auto" was resolved when the job was made.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.text.data_files import FileType


class JobStatus(StrEnum):
    """OpenAI's names. Files are checked while they are uploaded, so a job starts as queued."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    # back to queued: released by a worker that shuts down, or taken from one that died
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TERMINAL = frozenset(status for status, allowed in NEXT.items() if not allowed)


def statuses_before(to: JobStatus) -> frozenset[JobStatus]:
    """Give the statuses from which a job may become ``to``."""
    return frozenset(status for status, allowed in NEXT.items() if to in allowed)


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptFormat(Frozen):
    """Two Mustache templates over a file's columns, for data that is not prompt and completion."""

    prompt: str = Field(min_length=1, max_length=20_000)
    completion: str = Field(min_length=1, max_length=20_000)


class LoraSpec(Frozen):
    """LoRA's shape, in PEFT's terms. ``target_modules`` None means every linear layer but the head."""

    rank: int = Field(16, ge=1, le=256)
    alpha: float = Field(32.0, gt=0, le=1024)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, max_length=64)


class FileRef(Frozen):
    """An uploaded file as a job uses it: by content, so a later change of the id means nothing."""

    id: str
    sha256: str
    examples: int
    file_type: FileType


OverLength = Literal["drop", "truncate_prompt", "error"]
TrainOn = Literal["all_assistant", "last_assistant"]  # which answers of a conversation


class JobSpec(Frozen):
    """Everything that decides a run's result, with every "auto" resolved."""

    base_model: str
    training_file: FileRef
    validation_file: FileRef | None  # None: a tenth of the prompts, chosen by hash, is held out
    n_epochs: int
    batch_size: int  # examples per optimizer step
    learning_rate: float
    learning_rate_multiplier: float
    lora: LoraSpec
    prompt_loss_weight: float  # 0: completion only; 1: full sequence
    train_on: TrainOn
    prompt_format: PromptFormat | None
    max_length: int  # tokens of one example, closing token included
    over_length: OverLength
    seed: int


def model_name(base_model: str, organization: str, suffix: str | None, job_id: str) -> str:
    """Name the model that a job makes, in OpenAI's form ``ft:base:organization:suffix:id``."""
    # The end of the id is its random part; its beginning is the time.
    return f"ft:{base_model}:{organization}:{suffix or ''}:{job_id[-10:]}"


def checkpoint_name(model: str, step: int) -> str:
    """Name the model that a job's checkpoint is."""
    return f"{model}:ckpt-step-{step}"
