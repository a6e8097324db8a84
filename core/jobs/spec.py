"""What a fine-tune job is to do: the resolved specification.

Knows no database and no HTTP; what clients ask for is ``core.jobs.requested``, and ``core.jobs.resolve`` makes a
specification of it. A specification is complete: every "auto" was resolved when the job was made.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from core.jobs.learning_rate import LrSchedulerType
from core.text.files.read import FileTypeName
from core.text.render_settings import RenderSettings
from core.values import Frozen


class LoraSpec(Frozen):
    """LoRA's shape, in PEFT's terms. ``target_modules`` None means every linear layer but the head.

    Attributes:
        use_rslora: the delta is scaled by alpha / √rank instead of alpha / rank (2312.03732).
        use_dora: the length of each row of a weight is trained apart from its direction (2402.09353).
    """

    rank: int = Field(16, ge=1, le=256)
    alpha: float = Field(32.0, gt=0, le=1024)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, max_length=64)
    use_rslora: bool = False
    use_dora: bool = False


class FileRef(Frozen):
    """An uploaded file as a job uses it: by content, so a later change of the id means nothing."""

    id: str
    sha256: str
    examples: int
    file_type: FileTypeName


class AdapterRef(Frozen):
    """A trained adapter that a job goes on from: by content, as the name may be deleted before the job runs."""

    name: str  # ft:…, of a job's result or of a checkpoint
    adapter_sha256: str  # of its manifest


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter as something to train further: of which base model, and with which shape.

    ``lora`` None: it came from elsewhere and has a shape that no job trains, such as ranks by patterns.
    """

    base_model: str
    ref: AdapterRef
    lora: LoraSpec | None


class JobEvaluation(Frozen):
    """By what a training is scored beside its loss.

    Attributes:
        metrics: names of `core.scoring.registry`'s.
        max_rows: of the held-out ones, that the models answer at the end.
    """

    metrics: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=32)]
    max_rows: int = Field(200, ge=2, le=10_000)


Quantization = Literal["nf4"]  # 4-bit NormalFloat (2305.14314)


EVALUATIONS: Final = 4  # of a run, beside the one before its first step
NOTHING_TO_SCORE: Final = (
    "goes by the loss of held-out completions, and none of their tokens has a weight, or no example is held out; "
    "add a validation file whose answers have weights, or leave this field out"
)


class TrainingSettings(RenderSettings):
    """What a job's specification and its answer on the wire say alike of the training, every "auto" resolved.

    Jobs that were stored before a field existed were trained as its default here says. What each field
    means and becomes where it is left out is in docs/hyperparameters.md.
    """

    lora: LoraSpec
    seed: int
    learning_rate: float
    lr_scheduler_type: LrSchedulerType = "linear"
    warmup_ratio: float | None = None  # None: `core.jobs.learning_rate.usual_warmup_steps`
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: gradients are not clipped
    loraplus_lr_ratio: float = 1.0  # of B's learning rate to A's
    neftune_noise_alpha: float = 0.0  # 0: no noise
    n_evals: int = EVALUATIONS
    early_stopping_patience: int | None = None  # evaluations without improvement; None: trains to the end
    # publishes the best evaluated checkpoint, not the last step: the one of the lowest loss, or by this metric
    load_best_model_at_end: bool | str = False
    evaluation: JobEvaluation | None = None
    quantization: Quantization | None = None  # of the frozen base, while it is trained on

    @property
    def best_by(self) -> str | None:
        """The metric by which an evaluation is the best; None: the loss."""
        return self.load_best_model_at_end if isinstance(self.load_best_model_at_end, str) else None

    @property
    def field_that_needs_scores(self) -> str | None:
        """The field that means nothing without a loss of held-out completions; None where none was asked for."""
        if self.early_stopping_patience is not None:
            return "early_stopping_patience"
        return "load_best_model_at_end" if self.load_best_model_at_end else None


class JobSpec(TrainingSettings):
    """Everything that decides a run's result. Its JSON is flat: it is stored with the job, and read by the trainer."""

    base_model: str
    base_model_fingerprint: str | None = None  # None: made before it was kept; whatever has the name is trained on
    training_file: FileRef
    validation_file: FileRef | None  # None: a tenth of the prompts, those of the smallest hashes, is held out
    n_epochs: int
    batch_size: int  # examples per optimizer step
    learning_rate_multiplier: float
    continue_from: AdapterRef | None = None  # None: starts from an adapter that adds nothing


def model_name(base_model: str, organization: str, suffix: str | None, job_id: str) -> str:
    """Name the model that a job makes, in OpenAI's form ``ft:base:organization:suffix:id``."""
    # The end of the id is its random part; its beginning is the time.
    return f"ft:{base_model}:{organization}:{suffix or ''}:{job_id[-10:]}"


def organization_of(model: str) -> str:
    """Give the organisation of a name that `model_name` made."""
    return model.split(":")[2]


def checkpoint_name(model: str, step: int) -> str:
    """Name the model that a job's checkpoint is."""
    return f"{model}:ckpt-step-{step}"
