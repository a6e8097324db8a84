"""What may be asked of a training run: type, bounds and default of each field that ``RenderFields`` has not.

A field that is None is chosen by ``core.jobs.resolve``. Where the fields stand in a request is the caller's.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from core.jobs.learning_rate import LrSchedulerType
from core.jobs.spec import JobEvaluation, LoraSpec, Quantization
from core.text.render_settings import RenderFields
from core.values import AutoFloat, AutoInt, Frozen, NoneAs

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class HyperparameterFields(Frozen):
    """Those that OpenAI's protocol has."""

    n_epochs: AutoInt = Field(None, ge=1, le=50)
    batch_size: AutoInt = Field(None, ge=1, le=256)
    learning_rate_multiplier: AutoFloat = Field(None, gt=0, le=1000)


class LoraFields(LoraSpec):
    """LoRA's shape; ``alpha`` null means twice the rank, ``target_modules`` "all-linear" the same as null."""

    alpha: AutoFloat = Field(None, gt=0, le=1024)  # type: ignore[assignment]  # wider: None is not resolved yet
    target_modules: Annotated[
        Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=64)] | None, NoneAs("all-linear")
    ] = None


class TrainingFields(RenderFields):
    """The others; ``core.jobs.spec.TrainingSettings`` is what they become."""

    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    lora: LoraFields = LoraFields()
    learning_rate: AutoFloat = Field(None, gt=0, le=1)
    lr_scheduler_type: LrSchedulerType = "linear"
    warmup_ratio: AutoFloat = Field(None, ge=0, lt=1)
    weight_decay: AutoFloat = Field(None, ge=0, le=1)
    max_grad_norm: AutoFloat = Field(None, ge=0, le=1000)
    loraplus_lr_ratio: AutoFloat = Field(None, ge=1, le=1000)
    neftune_noise_alpha: float | None = Field(None, ge=0, le=100)
    n_evals: AutoInt = Field(None, ge=1, le=100)
    early_stopping_patience: int | None = Field(None, ge=1, le=100)
    load_best_model_at_end: Annotated[bool | MetricName | None, NoneAs("auto")] = None
    evaluation: JobEvaluation | None = None
    quantization: Quantization | None = None
