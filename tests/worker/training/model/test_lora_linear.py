from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from worker.training.data.batches import ONLY_ADAPTER
from worker.training.model.ablations import ALL
from worker.training.model.frozen_linear import Stretch
from worker.training.model.lora import LoraModel, add_beside
from worker.training.model.lora_linear import project
from worker.training.native.kernels import TrainerKernels

OFF = ALL.without("own_lora")
Run = tuple[list[Tensor], Tensor, dict[str, Tensor]]  # outputs, the input's gradient, the adapter's


def _layers(model: LoraModel) -> list[nn.Module]:
    layer: Any = model.decoder.layers[0]  # type: ignore[index]
    return [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.fc1]


def _whole(input_NI: Tensor) -> list[Stretch]:
    return [Stretch(ONLY_ADAPTER, slice(0, len(input_NI)))]


def _run(model: LoraModel, input_NI: Tensor, *, is_own: bool, kernels: TrainerKernels | None = None) -> Run:
    input_NI = input_NI.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        outputs = project(input_NI, _layers(model), _whole(input_NI), ALL if is_own else OFF, kernels)
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in outputs]
    torch.autograd.backward(outputs, grads)
    gradients = {name: p.grad for name, p in model.parameters.items() if p.grad is not None}
    for parameter in model.parameters.values():
        parameter.grad = None
    assert input_NI.grad is not None
    return outputs, input_NI.grad, gradients


@pytest.mark.parametrize("targets", [None, ("q_proj", "fc1"), ("fc2",)], ids=["all", "some", "none of these"])
def test_is_what_pefts_modules_compute(tiny_phi: Path, make_model: MakeModel, targets: tuple[str, ...] | None) -> None:
    model = make_model(tiny_phi, LoraSpec(rank=4, alpha=8, target_modules=targets))
    input_NI = torch.randn(7, 80, generator=torch.Generator().manual_seed(2))
    _assert_same(_run(model, input_NI, is_own=True), _run(model, input_NI, is_own=False))


@pytest.mark.parametrize("targets", [None, ("q_proj", "fc1"), ("fc2",)], ids=["all", "some", "none of these"])
def test_kernels_compute_it_too(
    tiny_phi: Path, make_model: MakeModel, targets: tuple[str, ...] | None, kernels: TrainerKernels
) -> None:
    model = make_model(tiny_phi, LoraSpec(rank=4, alpha=8, target_modules=targets))
    input_NI = torch.randn(7, 80, generator=torch.Generator().manual_seed(2))
    ours = _run(model, input_NI, is_own=True, kernels=kernels)
    _assert_same(ours, _run(model, input_NI, is_own=False), atol=1e-5)  # their sums run in another order


def _assert_same(ours: Run, theirs: Run, atol: float = 1e-6) -> None:
    assert set(ours[2]) == set(theirs[2])
    pairs = [*zip(ours[0], theirs[0], strict=True), (ours[1], theirs[1])]
    pairs += [(ours[2][name], theirs[2][name]) for name in theirs[2]]
    assert all(torch.allclose(found, expected, rtol=1e-5, atol=atol) for found, expected in pairs)


def test_every_gradient_is_float32(tiny_phi: Path, make_model: MakeModel) -> None:
    _, _, gradients = _run(make_model(tiny_phi), torch.randn(7, 80), is_own=True)
    assert len(gradients) == 6
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_dropout_is_left_to_peft(tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi, LoraSpec(rank=4, alpha=8, dropout=0.5))
    input_NI = torch.randn(7, 80)
    torch.manual_seed(0)
    ours = project(input_NI, _layers(model), _whole(input_NI), ALL)
    torch.manual_seed(0)
    assert all(torch.equal(one, layer(input_NI)) for one, layer in zip(ours, _layers(model), strict=True))
    assert not torch.equal(ours[0], project(input_NI, _layers(model), _whole(input_NI), ALL)[0])


TARGETS = (None, ("q_proj", "fc1"), ("fc2",))  # all of the layers, some, and none


@pytest.mark.parametrize("has_kernels", [False, True], ids=["torch", "kernels"])
def test_each_stretch_is_computed_with_its_own_adapter(
    tiny_phi: Path, make_model: MakeModel, kernels: TrainerKernels, has_kernels: bool
) -> None:
    first = make_model(tiny_phi, LoraSpec(rank=4, alpha=8, target_modules=TARGETS[0]))
    models = [first, *(add_beside(first, LoraSpec(rank=3, target_modules=names), seed=1) for names in TARGETS[1:])]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (parameter for model in models for parameter in model.parameters.values()):
            parameter.normal_(std=0.05, generator=generator)
    input_NI, ends = torch.randn(24, 80, generator=generator), (0, 7, 15, 24)
    grads = [torch.randn(24, width, generator=generator) for width in (80, 80, 160)]
    stretches = [Stretch(one.adapter, slice(*ends[n : n + 2])) for n, one in enumerate(models)]
    joined = input_NI.clone().requires_grad_()
    outputs = project(joined, _layers(first), stretches, ALL, kernels if has_kernels else None)
    torch.autograd.backward(outputs, grads)
    found = [_taken(model) for model in models]
    for model, stretch, gradients in zip(models, stretches, found, strict=True):
        model.activate()
        alone = input_NI[stretch.rows].clone().requires_grad_()
        theirs = [layer(alone) for layer in _layers(model)]
        torch.autograd.backward(theirs, [grad[stretch.rows] for grad in grads])
        ours = [output[stretch.rows] for output in outputs]
        assert joined.grad is not None
        assert alone.grad is not None
        _assert_same((ours, joined.grad[stretch.rows], gradients), (theirs, alone.grad, _taken(model)), atol=1e-5)


def _taken(model: LoraModel) -> dict[str, Tensor]:
    """Give the gradients, and leave none behind."""
    gradients = {name: p.grad for name, p in model.parameters.items() if p.grad is not None}
    for parameter in model.parameters.values():
        parameter.grad = None
    return gradients
