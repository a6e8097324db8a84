from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.training.run_folders import make_job
from worker.training.model.optimizer import AdapterOptimizer


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("q.lora_A.weight", "q.lora_B.weight")
    }


def _optimizer(
    parameters: dict[str, nn.Parameter], total_steps: int = 8, learning_rate: float = 0.1, **job: Any
) -> AdapterOptimizer:
    return AdapterOptimizer(parameters, make_job(learning_rate=learning_rate, **job), total_steps)


def _take(optimizer: AdapterOptimizer, parameters: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        for scale, parameter in enumerate(parameters.values(), start=1):
            parameter.grad = parameter.detach().sin() * scale * (step + 1)
        optimizer.clip()
        optimizer.step(step)


LORA_PLUS = {"loraplus_lr_ratio": 16.0, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "warmup_ratio": 0.25}


@pytest.mark.parametrize("job", [{}, LORA_PLUS], ids=["defaults", "all knobs"])
def test_restored_moments_go_on_to_the_bit(job: dict[str, Any]) -> None:
    whole = _parameters()
    _take(_optimizer(whole, **job), whole, range(8))
    halves = _parameters()
    first = _optimizer(halves, **job)
    _take(first, halves, range(5))
    second = _optimizer(halves, **job)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()}, 5)
    _take(second, halves, range(5, 8))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_clips_to_length_one_and_gives_the_length_before() -> None:
    parameters = _parameters()
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer = _optimizer(parameters)
    assert optimizer.clip() == pytest.approx((24 * 4) ** 0.5)
    lengths = [parameter.grad.norm() for parameter in parameters.values() if parameter.grad is not None]
    assert float(torch.stack(lengths).norm()) == pytest.approx(1.0, abs=1e-5)


def test_moves_against_the_gradient_by_about_the_rate() -> None:
    """Adam's first step has the size of the learning rate, whatever the gradient's."""
    parameters = {"a": nn.Parameter(torch.zeros(2))}
    parameters["a"].grad = torch.tensor([1e-3, -50.0])
    assert _optimizer(parameters, 1, 0.5).step(0) == 0.5
    assert parameters["a"].tolist() == pytest.approx([-0.5, 0.5], rel=1e-3)


def _moved(**job: Any) -> dict[str, float]:
    """How far one step with a gradient of ones moves weights that all are 2."""
    shapes = {"q.lora_A.weight": (2, 3), "q.lora_B.weight": (3, 2), "q.lora_magnitude_vector": (3,)}
    parameters = {name: nn.Parameter(torch.full(shape, 2.0)) for name, shape in shapes.items()}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    _optimizer(parameters, 1, 1e-3, max_grad_norm=0, **job).step(0)
    return {name.split(".")[1]: 2.0 - float(parameter.detach().mean()) for name, parameter in parameters.items()}


def test_all_weights_learn_at_one_rate_by_default() -> None:
    assert _moved() == pytest.approx({"lora_A": 1e-3, "lora_B": 1e-3, "lora_magnitude_vector": 1e-3}, rel=1e-3)


def test_lora_plus_lets_b_learn_faster() -> None:
    moved = _moved(loraplus_lr_ratio=16)
    assert moved == pytest.approx({"lora_A": 1e-3, "lora_B": 16e-3, "lora_magnitude_vector": 16e-3}, rel=1e-3)


def test_weight_decay_is_adamws_and_spares_lengths() -> None:
    """AdamW takes rate × decay × weight away, here 1e-3 × 0.5 × 2, beside the gradient's own step."""
    moved = _moved(weight_decay=0.5)
    assert moved == pytest.approx({"lora_A": 2e-3, "lora_B": 2e-3, "lora_magnitude_vector": 1e-3}, rel=1e-3)


@pytest.mark.parametrize(("max_grad_norm", "left"), [(0.5, 0.5), (0, (24 * 4) ** 0.5), (1000, (24 * 4) ** 0.5)])
def test_the_norm_that_gradients_are_clipped_to_is_the_jobs(max_grad_norm: float, left: float) -> None:
    parameters = _parameters()
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    _optimizer(parameters, max_grad_norm=max_grad_norm).clip()
    lengths = [parameter.grad.norm() for parameter in parameters.values() if parameter.grad is not None]
    assert float(torch.stack(lengths).norm()) == pytest.approx(left, abs=1e-4)
