"""What each "auto" becomes."""

from typing import Any

import pytest

from core.jobs.requested import HyperparameterFields, TrainingFields
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import FileRef, JobSpec


def resolved(examples: int = 1000, context_tokens: int = 4096, is_validated: bool = False, **fields: Any) -> JobSpec:
    """Resolve fields, with those of the protocol among them as `hyperparameters`."""
    asked = HyperparameterFields.model_validate(fields.pop("hyperparameters", {}))
    return resolve(
        TrainingFields.model_validate(fields),
        asked,
        TrainableBase("base", fingerprint="f" * 64, learning_rate=1e-3, context_tokens=context_tokens),
        training=file_ref("file-1", examples),
        validation=file_ref("file-2", 10) if is_validated else None,
    )


def file_ref(name: str, examples: int) -> FileRef:
    return FileRef(id=name, sha256="0" * 64, examples=examples, file_type="jsonl")


@pytest.mark.parametrize(("examples", "batch_size"), [(1, 1), (7, 1), (16, 2), (64, 8), (128, 16), (10_000, 16)])
def test_small_files_get_small_batches_so_that_an_epoch_has_eight_steps(examples: int, batch_size: int) -> None:
    assert resolved(examples).batch_size == batch_size


def test_a_batch_is_never_larger_than_the_file() -> None:
    assert resolved(5, hyperparameters={"batch_size": 64}).batch_size == 5


def test_the_multiplier_scales_the_base_models_own_rate() -> None:
    spec = resolved(hyperparameters={"learning_rate_multiplier": 0.5})
    assert (spec.learning_rate, spec.learning_rate_multiplier) == (5e-4, 0.5)


def test_a_given_rate_stands_and_tells_its_multiplier() -> None:
    spec = resolved(learning_rate=2e-3)
    assert (spec.learning_rate, spec.learning_rate_multiplier) == (2e-3, 2.0)


@pytest.mark.parametrize(("context_tokens", "max_length"), [(4096, 2048), (512, 512)])
def test_the_length_is_bounded_by_the_context(context_tokens: int, max_length: int) -> None:
    assert resolved(context_tokens=context_tokens).max_length == max_length


def test_alpha_follows_the_rank() -> None:
    assert resolved(lora={"rank": 8}).lora.alpha == 16
    assert resolved(lora={"rank": 8, "alpha": 8}).lora.alpha == 8


@pytest.mark.parametrize(
    ("examples", "is_validated", "steps", "warmup"),
    [(1000, True, 189, 6), (1000, False, 171, 6), (100, True, 27, 2), (20, True, 30, 3), (2, False, 6, 0)],
)
def test_warm_up_is_the_usual_share_of_the_steps_that_the_file_makes(
    examples: int, is_validated: bool, steps: int, warmup: int
) -> None:
    assert resolved(examples, is_validated=is_validated).warmup_ratio == warmup / steps


def test_no_warm_up_can_be_asked_for() -> None:
    assert resolved(warmup_ratio=0).warmup_ratio == 0


@pytest.mark.parametrize(
    ("patience", "asked", "n_evals"), [(None, "auto", 4), (1, "auto", 4), (3, "auto", 8), (3, 5, 5), (None, 1, 1)]
)
def test_there_are_evaluations_enough_for_the_patience(patience: int | None, asked: Any, n_evals: int) -> None:
    assert resolved(early_stopping_patience=patience, n_evals=asked).n_evals == n_evals


@pytest.mark.parametrize(
    ("patience", "asked", "best"),
    [(None, None, False), (2, None, True), (2, "auto", True), (2, False, False), (None, True, True)],
)
def test_early_stopping_publishes_the_best_unless_told_otherwise(patience: int | None, asked: Any, best: bool) -> None:
    assert resolved(early_stopping_patience=patience, load_best_model_at_end=asked).load_best_model_at_end is best


@pytest.mark.parametrize(("asked", "alpha"), [(None, 0.0), (0, 0.0), (5, 5.0)])
def test_no_noise_is_null_or_zero(asked: Any, alpha: float) -> None:
    assert resolved(neftune_noise_alpha=asked).neftune_noise_alpha == alpha


def test_seeds_are_drawn_anew_for_each_job() -> None:
    assert len({resolved().seed for _ in range(5)}) > 1
    assert resolved(seed=0).seed == 0
