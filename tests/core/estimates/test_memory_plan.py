"""The arithmetic alone; that it agrees with a real model is tested beside the trainer's own measurement."""

from pathlib import Path
from typing import Any

import pytest

from core.base_models.shape import ModelShape, read_shape
from core.estimates.memory_plan import (
    FREE_SHARE,
    MAX_TOKENS_CPU,
    MAX_TOKENS_CUDA,
    MIN_TOKENS,
    Memory,
    StepSizes,
    activation_bytes_per_token,
    peak_bytes_together,
    plan_memory,
    token_budget,
)
from core.jobs.spec import LoraSpec
from tests.harness.models.tiny_shapes import TINY_LLAMA, TINY_PHI, write_shapes

PLENTY_BYTES = 2**40


@pytest.fixture
def llama(tmp_path: Path) -> ModelShape:
    write_shapes(tmp_path, TINY_LLAMA)
    return read_shape(tmp_path)


def plan(shape: ModelShape, lora: LoraSpec | None = None, **changes: Any) -> Memory:
    usual: dict[str, Any] = {"longest_tokens": 100, "mean_tokens": 100.0, "batch_size": 4, "steps": 10}
    sizes = StepSizes(**{name: changes.pop(name, value) for name, value in usual.items()})
    fields = {"available_bytes": PLENTY_BYTES, "is_gpu": False} | changes
    return plan_memory(shape, lora or LoraSpec(), fields.pop("dtype", "float32"), sizes, **fields)


@pytest.mark.parametrize(
    ("free_bytes", "is_gpu", "tokens"),
    [(2**60, False, MAX_TOKENS_CPU), (2**60, True, MAX_TOKENS_CUDA), (0, False, MIN_TOKENS), (1000 * 300, False, 150)],
)
def test_a_micro_batch_takes_a_share_of_the_free_memory_within_bounds(
    free_bytes: int, is_gpu: bool, tokens: int
) -> None:
    assert FREE_SHARE == 0.5
    assert token_budget(free_bytes, 1000, is_gpu=is_gpu) == tokens


def test_the_peak_is_the_sum_of_its_components(llama: ModelShape) -> None:
    memory = plan(llama)
    components = [value for name, value in memory.model_dump().items() if name.endswith("_bytes")]
    assert 2 * memory.peak_bytes + memory.least_bytes == sum(components)
    assert sum(memory.least_parts.values()) == memory.least_bytes


def test_weights_and_adapter_are_counted_exactly(llama: ModelShape) -> None:
    memory = plan(llama, LoraSpec(rank=4, target_modules=("q_proj",)), dtype="bfloat16")
    assert memory.base_weights_bytes == 2 * llama.parameters
    assert memory.adapter_bytes == 16 * 4 * (16 + 16) + 2 * 5 * (16 + 16)  # with copies that hold the bias too


def test_in_4_bits_are_the_linear_layers_of_the_blocks_alone(llama: ModelShape) -> None:
    """A block of 64 × 256 values takes 8,192 bytes, 256 for its constants and 4 for theirs: 8,452."""
    memory = plan(llama, dtype="bfloat16", is_gpu=True, quantization="nf4")
    others = llama.parameters - llama.linear_parameters
    assert memory.base_weights_bytes == pytest.approx(llama.linear_parameters * 8452 / (64 * 256) + 2 * others, abs=1)
    assert memory.peak_bytes < plan(llama, dtype="bfloat16", is_gpu=True).peak_bytes


def test_doras_lengths_are_counted(llama: ModelShape) -> None:
    lora = {"rank": 4, "target_modules": ("q_proj",)}
    plain, dora = (plan(llama, LoraSpec.model_validate(lora | {"use_dora": on})) for on in (False, True))
    assert dora.adapter_bytes - plain.adapter_bytes == 16 * 16


def test_a_batch_smaller_than_the_budget_needs_no_more_than_its_tokens(llama: ModelShape) -> None:
    memory = plan(llama, longest_tokens=100, batch_size=2)
    assert memory.token_budget == MAX_TOKENS_CPU
    assert memory.activations_bytes == 200 * memory.activation_bytes_per_token


def test_a_step_of_unequal_examples_needs_less_than_one_of_the_longest_only(llama: ModelShape) -> None:
    memory = plan(llama, longest_tokens=250, mean_tokens=100.0, batch_size=4)
    # two deviations of a third of 150 tokens each, times the root of 4, above 400
    assert memory.activations_bytes == 600 * memory.activation_bytes_per_token


def test_an_example_over_the_budget_is_a_micro_batch_of_its_own(llama: ModelShape) -> None:
    memory = plan(llama, longest_tokens=2000, available_bytes=0)
    assert memory.token_budget == MIN_TOKENS
    assert memory.activations_bytes == 2000 * memory.activation_bytes_per_token


@pytest.mark.parametrize("change", [{"longest_tokens": 200}, {"lora": LoraSpec(rank=64)}])
def test_what_a_job_needs_at_least_grows_with_examples_and_rank(llama: ModelShape, change: dict[str, Any]) -> None:
    assert plan(llama, **change).least_bytes > plan(llama).least_bytes


def test_what_a_job_needs_at_least_does_not_depend_on_the_batch(llama: ModelShape) -> None:
    assert plan(llama, batch_size=64).least_bytes == plan(llama, batch_size=1).least_bytes


def test_layers_that_read_the_same_keep_it_once(tmp_path: Path) -> None:
    write_shapes(tmp_path, TINY_PHI, {"partial_rotary_factor": 0.4})
    shape, lora = read_shape(tmp_path), LoraSpec(rank=1, target_modules=("q_proj", "fc1"))
    norms, attention, mlp, read, ranks = 2 * 16, 4 * 16, 64, 16, 2 * 2
    expected = 4 * (norms + attention + mlp + read + ranks)
    found = activation_bytes_per_token(shape, shape.adapted(lora), lora, "float32", longest_tokens=2000, is_gpu=False)
    assert found == expected


def test_more_steps_compile_more_kernels_up_to_a_limit_and_only_on_a_cpu(llama: ModelShape) -> None:
    few, many, more = (plan(llama, dtype="bfloat16", steps=steps).workspace_bytes for steps in (1, 1000, 2000))
    assert few < many == more
    assert plan(llama, dtype="bfloat16", steps=1000, is_gpu=True).workspace_bytes < few


def test_weights_that_are_converted_are_in_memory_twice(llama: ModelShape) -> None:
    assert llama.stored_bytes == 2 * llama.parameters
    converted, activations = plan(llama), 0.1 * plan(llama).activations_bytes
    assert converted.workspace_bytes == pytest.approx(llama.stored_bytes + activations, abs=1)


class TestTogether:
    def test_one_takes_what_it_takes_alone(self, llama: ModelShape) -> None:
        assert peak_bytes_together([plan(llama)]) == plan(llama).peak_bytes

    def test_several_have_the_base_once_and_an_adapter_each(self, llama: ModelShape) -> None:
        one, other = plan(llama), plan(llama, LoraSpec(rank=64))
        both = peak_bytes_together([one, other])
        assert both < one.peak_bytes + other.peak_bytes - one.base_weights_bytes
        assert both > max(
            one.peak_bytes + other.adapter_bytes, other.peak_bytes + one.adapter_bytes
        )  # a pass is of both

    def test_their_passes_are_no_larger_than_the_budget_of_one(self, llama: ModelShape) -> None:
        full = plan(llama, batch_size=1000)  # its micro-batches fill the budget
        assert full.activations_bytes == full.token_budget * full.activation_bytes_per_token
        assert peak_bytes_together([full] * 8) == full.peak_bytes + 7 * full.adapter_bytes
