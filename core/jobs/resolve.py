"""What a job's "auto" values become: every default of a fine-tuning job, in one place."""

import math
import secrets
from dataclasses import dataclass
from typing import Final, TypeVar

from core.errors import InvalidParameter
from core.jobs.learning_rate import usual_warmup_steps
from core.jobs.requested import HyperparameterFields, LoraFields, TrainingFields
from core.jobs.spec import EVALUATIONS, FileRef, JobEvaluation, JobSpec, LoraSpec, TrainedAdapter
from core.text.held_out import count_held_out
from core.text.render_settings import MAX_LENGTH_TOKENS, RenderFields, RenderSettings

T = TypeVar("T")

N_EPOCHS: Final = 3
BATCH_SIZE: Final = 16
STEPS_PER_EPOCH: Final = 8  # fewer would leave the learning rate's schedule no shape
ALPHA_PER_RANK: Final = 2.0
WEIGHT_DECAY: Final = 0.0  # B starts at zero, so the adapter is small already; QLoRA (2305.14314) has none either
MAX_GRAD_NORM: Final = 1.0  # of transformers' TrainingArguments
LORAPLUS_LR_RATIO: Final = 1.0  # plain LoRA


@dataclass(frozen=True)
class TrainableBase:
    """What a job takes from its base model: the registry's name and learning rate, the folder's other two."""

    name: str
    fingerprint: str
    learning_rate: float
    context_tokens: int


def resolve(
    request: TrainingFields,
    asked: HyperparameterFields,
    base: TrainableBase,
    *,
    training: FileRef,
    validation: FileRef | None,
    continued: TrainedAdapter | None = None,
) -> JobSpec:
    """Turn a request into a complete specification; docs/hyperparameters.md has the sources of the rules.

    Args:
        training: the file that is trained on; ``validation``, the one that is scored; None: a part of the other.
        continued: the adapter that ``continue_from`` names.

    Raises:
        InvalidParameter: two fields contradict each other, or a value does not fit the base model.
    """
    learning_rate, multiplier = _learning_rate(request, asked, base.learning_rate)
    n_epochs = asked.n_epochs or N_EPOCHS
    batch_size = _batch_size(asked, training.examples)
    return JobSpec(
        base_model=base.name,
        base_model_fingerprint=base.fingerprint,
        training_file=training,
        validation_file=validation,
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_multiplier=multiplier,
        lora=_lora(request.lora) if continued is None else _continued_lora(request.lora, continued),
        **dict(rendering_of(request, base.name, base.context_tokens)),
        seed=_given(request.seed, secrets.randbelow(2**31)),
        lr_scheduler_type=request.lr_scheduler_type,
        warmup_ratio=_warmup_ratio(request, training.examples, validation, batch_size, n_epochs),
        weight_decay=_given(request.weight_decay, WEIGHT_DECAY),
        max_grad_norm=_given(request.max_grad_norm, MAX_GRAD_NORM),
        loraplus_lr_ratio=_given(request.loraplus_lr_ratio, LORAPLUS_LR_RATIO),
        neftune_noise_alpha=request.neftune_noise_alpha or 0.0,
        n_evals=_n_evals(request),
        early_stopping_patience=request.early_stopping_patience,
        load_best_model_at_end=_loads_best(request),
        continue_from=None if continued is None else continued.ref,
        quantization=request.quantization,
        evaluation=None if request.evaluation is None else JobEvaluation(**dict(request.evaluation)),
    )


def rendering_of(asked: RenderFields, model: str, context_tokens: int) -> RenderSettings:
    """Resolve ``max_length``: 2048 tokens, or the base model's context where that is shorter.

    Raises:
        InvalidParameter: more are asked for than the base model's context holds.
    """
    if asked.max_length is not None and asked.max_length > context_tokens:
        raise InvalidParameter("max_length", f"the context of {model} holds {context_tokens} tokens")
    return asked.with_max_length(asked.max_length or min(MAX_LENGTH_TOKENS, context_tokens))


def _learning_rate(request: TrainingFields, asked: HyperparameterFields, usual: float) -> tuple[float, float]:
    """Give the rate and its multiplier: ``usual``, the base model's from the registry, times the multiplier, 1.

    A rate that was asked for stands as it is, and the multiplier says what it comes to.
    """
    if request.learning_rate is None:
        multiplier = asked.learning_rate_multiplier or 1.0
        return usual * multiplier, multiplier
    if asked.learning_rate_multiplier is not None:
        raise InvalidParameter("learning_rate", "given together with learning_rate_multiplier; give one of them")
    return request.learning_rate, request.learning_rate / usual


def _batch_size(asked: HyperparameterFields, examples: int) -> int:
    """Few enough examples that an epoch has about 8 steps; whatever was asked for, never more than there are."""
    usual = max(1, min(BATCH_SIZE, examples // STEPS_PER_EPOCH))
    return min(asked.batch_size or usual, examples)


def _given(value: T | None, rule: T) -> T:
    return rule if value is None else value


def _lora(asked: LoraFields) -> LoraSpec:
    alpha = asked.alpha or ALPHA_PER_RANK * asked.rank
    return LoraSpec.model_validate(asked.model_dump() | {"alpha": alpha})


def _continued_lora(asked: LoraFields, continued: TrainedAdapter) -> LoraSpec:
    """Take over an adapter's shape; what the request says of it must agree."""
    theirs = continued.lora
    if theirs is None:
        raise InvalidParameter(
            "continue_from",
            f"{continued.ref.name} has a shape that cannot be trained further, such as ranks by patterns",
        )
    for field in sorted(asked.model_fields_set - {"dropout"}):
        wanted, has = getattr(asked, field), getattr(theirs, field)
        if field == "alpha" and wanted is None:
            continue
        if field == "target_modules" and wanted is not None and has is not None:
            wanted, has = sorted(wanted), sorted(has)
        if wanted != has:
            shown = "all-linear" if has is None else has
            raise InvalidParameter(
                f"lora.{field}", f"{continued.ref.name}, which continue_from names, has {shown}; leave this field out"
            )
    return theirs.model_copy(update={"dropout": asked.dropout})


def _warmup_ratio(
    request: TrainingFields, examples: int, validation: FileRef | None, batch_size: int, n_epochs: int
) -> float:
    """3 % of the steps, at least 5 but at most a tenth of them, as a share of those that the file's examples make."""
    if request.warmup_ratio is not None:
        return request.warmup_ratio
    if validation is None:
        examples -= count_held_out(examples)
    steps = math.ceil(examples / batch_size) * n_epochs
    return usual_warmup_steps(steps) / steps


def _n_evals(request: TrainingFields) -> int:
    """4; with an early stopping patience p at least 2 (p + 1), so that it can run out half-way."""
    patience = request.early_stopping_patience
    if patience is None:
        return request.n_evals or EVALUATIONS
    if request.n_evals is None:
        return max(EVALUATIONS, 2 * (patience + 1))
    if request.n_evals < patience + 2:
        raise InvalidParameter(
            "early_stopping_patience",
            f"{patience} evaluations without improvement cannot come before the last of {request.n_evals} (n_evals), "
            "so that they would never end the run early; lower the patience, or raise n_evals",
        )
    return request.n_evals


def _loads_best(request: TrainingFields) -> bool | str:
    """True with early stopping, which is of little use without."""
    asked = request.load_best_model_at_end
    return request.early_stopping_patience is not None if asked is None else asked
