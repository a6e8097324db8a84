"""Adapted linear layers that read the same input, as one autograd function over frozen weights.

LoRA (Hu 2021, 2106.09685): y = x W' + b + s (x A') B'. PEFT's modules keep x once per layer and once per type, add
the input's gradients of all layers one by one, and convert A and B at each use. Here x is kept once, the A of
all layers are one product, and every gradient is added inside a product. Rows of several adapters may lie behind each
other: the frozen product is over all of them, and each stretch of rows has its own A and B. Knows no architecture;
with kernels it is ``native_functions``'s, which this one is the reference of.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.training.model.ablations import Techniques
from worker.training.model.frozen_linear import FrozenLinear, Stretch, find_own_layer
from worker.training.model.native_functions import NativeLinears
from worker.training.native.kernels import TrainerKernels


def project(
    input_NI: Tensor,
    layers: Sequence[nn.Module],
    stretches: Sequence[Stretch],
    techniques: Techniques,
    kernels: TrainerKernels | None = None,
) -> list[Tensor]:
    """Give each layer's output for the same input, whose rows are the stretches', in order.

    Layers with dropout or with a magnitude (DoRA) are computed by PEFT's own modules, for one adapter at a time.
    """
    own = [find_own_layer(layer, [one.adapter for one in stretches]) for layer in layers] if techniques.own_lora else []
    known = [layer for layer in own if layer is not None]
    if not known or len(known) < len(layers):
        assert len(stretches) == 1, "PEFT's modules do not know whose row is whose"
        return [layer(input_NI) for layer in layers]
    rows = [one.rows for one in stretches]
    adapters = [
        tensor
        for place in range(len(rows))
        for layer in known
        if (factors := layer.factors[place]) is not None
        for tensor in (factors.a_RI, factors.b_OR)
    ]
    outputs: tuple[Tensor, ...]
    with torch.autocast(input_NI.device.type, enabled=False):
        if kernels is None:
            outputs = _LoraLinears.apply(input_NI, known, rows, *adapters)  # type: ignore[no-untyped-call]
        else:
            outputs = NativeLinears.apply(input_NI, known, rows, kernels, *adapters)  # type: ignore[no-untyped-call]
    return list(outputs)


class _LoraLinears(torch.autograd.Function):
    """R are the ranks of all adapters of one input and one stretch together, and a constant behind those of each.

    Takes the input, the layers, each stretch's rows, and stretch by stretch A and B of each layer that it adapts.
    """

    @staticmethod
    def forward(
        ctx: Any, input_NI: Tensor, layers: Sequence[FrozenLinear], rows: Sequence[slice], *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = [_frozen_output(input_NI, layer) for layer in layers]
        kept: list[Tensor] = []
        for place, own in enumerate(rows):
            all_a, all_b = _factors_at(layers, place)
            a_RI = _with_constants(all_a, input_NI)
            lora_a_NR = input_NI[own] @ a_RI.t()
            kept += [lora_a_NR, a_RI]
            adapted = iter(zip(all_b, _slices(all_a), strict=True))
            for layer, output_NO in zip(layers, outputs, strict=True):
                if (factors := layer.factors[place]) is not None:
                    b_OR, ranks = next(adapted)
                    lora_a_NR[:, ranks.stop - 1] = 1.0
                    kept.append(_with_bias(b_OR * factors.scale, layer.bias_O).to(input_NI.dtype))
                    output_NO[own].addmm_(lora_a_NR[:, ranks], kept[-1].t())
                elif layer.bias_O is not None and any(layer.factors):
                    output_NO[own] += layer.bias_O
        # without an adapter nobody needs the input again
        ctx.save_for_backward(input_NI if adapters else None, *kept)
        ctx.layers, ctx.rows = layers, rows
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, *kept = ctx.saved_tensors
        input_grad = None
        if ctx.needs_input_grad[0]:
            for layer, grad_NO in zip(ctx.layers, grads, strict=True):
                input_grad = _add_product(input_grad, grad_NO, layer.weight_OI)
        adapter_grads: list[Tensor] = []
        saved = iter(kept)
        for place, own in enumerate(ctx.rows):
            lora_a_NR, a_RI = next(saved), next(saved)
            adapted = [(layer, grad) for layer, grad in zip(ctx.layers, grads, strict=True) if layer.factors[place]]
            if not adapted:
                continue
            all_ranks = _slices(_factors_at(ctx.layers, place)[0])
            lora_a_grad_NR, b_grads = torch.empty_like(lora_a_NR), []
            for (layer, grad_NO), ranks in zip(adapted, all_ranks, strict=True):
                lora_a_grad_NR[:, ranks] = grad_NO[own] @ next(saved)
                # this way round the product's rows are few, which is twice as fast on a CPU
                b_grad_RO = (lora_a_NR[:, ranks].t() @ grad_NO[own])[:-1]
                b_grads.append(b_grad_RO.t().float() * layer.factors[place].scale)
            a_grad_RI = (lora_a_grad_NR.t() @ input_NI[own]).float()
            for ranks, b_grad_OR in zip(all_ranks, b_grads, strict=True):
                adapter_grads += [a_grad_RI[ranks][:-1], b_grad_OR]
            if input_grad is not None:
                input_grad[own].addmm_(lora_a_grad_NR, a_RI)
        return input_grad, None, None, *adapter_grads


def _frozen_output(input_NI: Tensor, layer: FrozenLinear) -> Tensor:
    """Give the frozen product; the bias comes with the adapters where there are any."""
    return nn.functional.linear(input_NI, layer.weight_OI, None if any(layer.factors) else layer.bias_O)


def _factors_at(layers: Sequence[FrozenLinear], place: int) -> tuple[list[Tensor], list[Tensor]]:
    """Give all A and all B of one stretch."""
    there = [factors for layer in layers if (factors := layer.factors[place]) is not None]
    return [factors.a_RI for factors in there], [factors.b_OR for factors in there]


def _with_constants(all_a: Sequence[Tensor], input_NI: Tensor) -> Tensor:
    """Put all A behind each other, and behind each a row of zeros: its place in A's output holds a 1."""
    zeros_1I = input_NI.new_zeros(1, input_NI.shape[1])
    rows = [part for a_RI in all_a for part in (a_RI.to(input_NI.dtype), zeros_1I)]
    return torch.cat(rows) if rows else input_NI.new_empty(0, input_NI.shape[1])


def _with_bias(b_OR: Tensor, bias_O: Tensor | None) -> Tensor:
    """Give B with the bias as one more column, which the constant 1 adds: that spares a pass over the output."""
    last_O1 = b_OR.new_zeros(len(b_OR), 1) if bias_O is None else bias_O[:, None].to(b_OR.dtype)
    return torch.cat([b_OR, last_O1], dim=1)


def _slices(all_a: Sequence[Tensor]) -> list[slice]:
    slices, begin = [], 0
    for a_RI in all_a:
        slices.append(slice(begin, begin + len(a_RI) + 1))  # and the constant
        begin = slices[-1].stop
    return slices


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add inside the product, which spares a pass over the sum for each layer."""
    return left @ right if total is None else total.addmm_(left, right)
