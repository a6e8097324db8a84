"""What a job's "auto" values become: every default of a fine-tuning job, in one place."""

import secrets
from typing import Final

from app.schemas.fine_tuning import HyperparametersCreate, JobCreate, JobFields
from core.base_models import BaseModelEntry
from core.errors import InvalidParameter
from core.jobs import FileRef, JobSpec, LoraSpec

N_EPOCHS: Final = 3
BATCH_SIZE: Final = 16
STEPS_PER_EPOCH: Final = 8  # fewer would leave the learning rate's schedule no shape
MAX_LENGTH_TOKENS: Final = 2048
ALPHA_PER_RANK: Final = 2.0


def resolve(
    request: JobCreate,
    *,
    base: BaseModelEntry,
    context_tokens: int,
    training: FileRef,
    validation: FileRef | None,
) -> JobSpec:
    """Turn a request into a complete specification.

    - ``n_epochs``: 3.
    - ``batch_size``: 16 examples, but few enough that an epoch has about 8 steps, and never more
      than there are examples.
    - ``learning_rate``: the base model's own from the registry × ``learning_rate_multiplier`` (1). A
      given ``learning_rate`` stands as it is, and the multiplier says what it comes to.
    - ``lora.alpha``: twice the rank.
    - ``max_length``: 2048 tokens, or the base model's context where that is shorter.
    - ``seed``: drawn at random, and echoed in the job.

    Raises:
        InvalidParameter: two fields contradict each other, or a value does not fit the base model.
    """
    asked = _hyperparameters_of(request)
    learning_rate, multiplier = _learning_rate(request, asked, base.learning_rate)
    return JobSpec(
        base_model=base.name,
        training_file=training,
        validation_file=validation,
        n_epochs=asked.n_epochs or N_EPOCHS,
        batch_size=min(asked.batch_size or _batch_size(training.examples), training.examples),
        learning_rate=learning_rate,
        learning_rate_multiplier=multiplier,
        lora=LoraSpec(
            rank=request.lora.rank,
            alpha=request.lora.alpha or ALPHA_PER_RANK * request.lora.rank,
            dropout=request.lora.dropout,
            target_modules=request.lora.target_modules,
        ),
        prompt_loss_weight=request.prompt_loss_weight,
        train_on=request.train_on,
        prompt_format=request.prompt_format,
        max_length=max_length_of(request, context_tokens),
        over_length=request.over_length,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
    )


def max_length_of(request: JobFields, context_tokens: int) -> int:
    """Give how many tokens an example may have.

    Raises:
        InvalidParameter: more are asked for than the base model's context holds.
    """
    if request.max_length is not None and request.max_length > context_tokens:
        raise InvalidParameter("max_length", f"the context of {request.model} holds {context_tokens} tokens")
    return request.max_length or min(MAX_LENGTH_TOKENS, context_tokens)


def _hyperparameters_of(request: JobCreate) -> HyperparametersCreate:
    """Read the newer place, ``method``, or the older one; the protocol allows either."""
    supervised = request.method.supervised if request.method else None
    newer = supervised.hyperparameters if supervised else None
    if newer is not None and request.hyperparameters is not None:
        raise InvalidParameter("hyperparameters", "given here and in method.supervised; give them once")
    return newer or request.hyperparameters or HyperparametersCreate()


def _learning_rate(request: JobCreate, asked: HyperparametersCreate, own: float) -> tuple[float, float]:
    if request.learning_rate is None:
        multiplier = asked.learning_rate_multiplier or 1.0
        return own * multiplier, multiplier
    if asked.learning_rate_multiplier is not None:
        raise InvalidParameter("learning_rate", "given together with learning_rate_multiplier; give one of them")
    return request.learning_rate, request.learning_rate / own


def _batch_size(examples: int) -> int:
    return max(1, min(BATCH_SIZE, examples // STEPS_PER_EPOCH))
