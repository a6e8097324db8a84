import pytest
import torch
from torch import nn

from worker.training.optimizer import AdapterOptimizer, learning_rate_factor


class TestLearningRate:
    def test_rises_then_falls_in_lines(self) -> None:
        factors = [learning_rate_factor(step, 100) for step in range(100)]
        assert factors[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
        assert factors[-1] == pytest.approx(1 / 95)
        assert factors[5:] == sorted(factors[5:], reverse=True)

    @pytest.mark.parametrize(("total", "warmup"), [(1, 0), (9, 0), (20, 2), (50, 5), (160, 5), (1000, 30)])
    def test_warms_up_for_three_percent_within_limits(self, total: int, warmup: int) -> None:
        factors = [learning_rate_factor(step, total) for step in range(total)]
        assert factors.index(1.0) == warmup

    def test_no_step_is_wasted_on_rate_zero(self) -> None:
        assert all(learning_rate_factor(step, total) > 0 for total in (1, 3, 7, 300) for step in range(total))


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("a", "b")}


def _take(optimizer: AdapterOptimizer, parameters: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        for scale, parameter in enumerate(parameters.values(), start=1):
            parameter.grad = parameter.detach().sin() * scale * (step + 1)
        optimizer.clip()
        optimizer.step(step)


def test_restored_moments_go_on_to_the_bit() -> None:
    whole = _parameters()
    _take(AdapterOptimizer(whole, 0.1, 8), whole, range(8))
    halves = _parameters()
    first = AdapterOptimizer(halves, 0.1, 8)
    _take(first, halves, range(5))
    second = AdapterOptimizer(halves, 0.1, 8)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()}, 5)
    _take(second, halves, range(5, 8))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_clips_to_length_one_and_gives_the_length_before() -> None:
    parameters = _parameters()
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer = AdapterOptimizer(parameters, 0.1, 8)
    assert optimizer.clip() == pytest.approx((24 * 4) ** 0.5)
    lengths = [parameter.grad.norm() for parameter in parameters.values() if parameter.grad is not None]
    assert float(torch.stack(lengths).norm()) == pytest.approx(1.0, abs=1e-5)


def test_moves_against_the_gradient_by_about_the_rate() -> None:
    """Adam's first step has the size of the learning rate, whatever the gradient's."""
    parameters = {"a": nn.Parameter(torch.zeros(2))}
    parameters["a"].grad = torch.tensor([1e-3, -50.0])
    assert AdapterOptimizer(parameters, 0.5, 1).step(0) == 0.5
    assert parameters["a"].tolist() == pytest.approx([-0.5, 0.5], rel=1e-3)
