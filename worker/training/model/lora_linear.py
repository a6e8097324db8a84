"""Adapted linear layers that read the same input, as one autograd function over frozen weights.

LoRA (Hu 2021, 2106.09685): y = x W' + b + s (x A') B'. PEFT's modules keep x once per layer and once per type, add
the input's gradients of all layers one by one, and convert A and B at each use. Here x is kept once, the A of
all layers are one product, and every gradient is added inside a product. Knows no
architecture; with kernels it is ``native_functions``'s, which this one is the reference of.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.training.model.ablations import Techniques
from worker.training.model.frozen_linear import FrozenLinear, find_own_layer
from worker.training.model.native_functions import NativeLinears
from worker.training.native.kernels import TrainerKernels


def project(
    input_NI: Tensor, layers: Sequence[nn.Module], techniques: Techniques, kernels: TrainerKernels | None = None
) -> list[Tensor]:
    """Give each layer's output for the same input.

    Layers with dropout or with a magnitude (DoRA) are computed by PEFT's own modules.
    """
    own = [find_own_layer(layer) for layer in layers] if techniques.own_lora else []
    known = [layer for layer in own if layer is not None]
    if not known or len(known) < len(layers):
        return [layer(input_NI) for layer in layers]
    adapters = [tensor for layer in known if layer.adapter is not None for tensor in layer.adapter]
    outputs: tuple[Tensor, ...]
    with torch.autocast(input_NI.device.type, enabled=False):
        if kernels is None:
            outputs = _LoraLinears.apply(input_NI, known, *adapters)  # type: ignore[no-untyped-call]
        else:
            outputs = NativeLinears.apply(input_NI, known, kernels, *adapters)  # type: ignore[no-untyped-call]
    return list(outputs)


class _LoraLinears(torch.autograd.Function):
    """R are the ranks of all adapters of one input together, and a constant behind those of each."""

    @staticmethod
    def forward(ctx: Any, input_NI: Tensor, layers: Sequence[FrozenLinear], *adapters: Tensor) -> tuple[Tensor, ...]:
        dtype = input_NI.dtype
        all_a, all_b = adapters[::2], adapters[1::2]
        a_RI = _with_constants(all_a, input_NI)
        lora_a_NR = input_NI @ a_RI.t()
        adapted = iter(range(len(all_b)))
        outputs, scaled_b, ranks = [], [], _slices(all_a)
        for layer in layers:
            if layer.adapter is None:
                outputs.append(nn.functional.linear(input_NI, layer.weight_OI, layer.bias_O))
                continue
            number = next(adapted)
            lora_a_NR[:, ranks[number].stop - 1] = 1.0
            scaled_b.append(_with_bias(all_b[number] * layer.scale, layer.bias_O).to(dtype))
            output_NO = nn.functional.linear(input_NI, layer.weight_OI)
            outputs.append(output_NO.addmm_(lora_a_NR[:, ranks[number]], scaled_b[-1].t()))
        # without an adapter nobody needs the input again
        ctx.save_for_backward(input_NI if all_a else None, lora_a_NR, a_RI, *scaled_b)
        ctx.layers, ctx.ranks = layers, ranks
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, lora_a_NR, a_RI, *scaled_b = ctx.saved_tensors
        input_grad = None
        lora_a_grad_NR = torch.empty_like(lora_a_NR)
        adapted = iter(range(len(scaled_b)))
        adapter_grads: list[Tensor] = []
        for layer, grad_NO in zip(ctx.layers, grads, strict=True):
            if ctx.needs_input_grad[0]:
                input_grad = _add_product(input_grad, grad_NO, layer.weight_OI)
            if layer.adapter is not None:
                number = next(adapted)
                ranks = ctx.ranks[number]
                lora_a_grad_NR[:, ranks] = grad_NO @ scaled_b[number]
                # this way round the product's rows are few, which is twice as fast on a CPU
                b_grad_OR = (lora_a_NR[:, ranks].t() @ grad_NO)[:-1].t().float() * layer.scale
                adapter_grads += [torch.empty(0), b_grad_OR]
        if adapter_grads:
            a_grad_RI = (lora_a_grad_NR.t() @ input_NI).float()
            adapter_grads[::2] = [a_grad_RI[ranks][:-1] for ranks in ctx.ranks]
            if input_grad is not None:
                input_grad.addmm_(lora_a_grad_NR, a_RI)
        return input_grad, None, *adapter_grads


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
