"""The autograd functions that are the trainer's kernels in both directions: attention, and adapted linear layers.

They give what ``cpu_attention`` and ``lora_linear`` compute with torch, which they are held against. An adapter is no
product of its own: its rank is as many more inputs of the frozen product, forwards and back, so that each output is
written once. Axes are those of ``worker.training.model.attention``; R are the ranks of all adapters of one input.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from worker.training.model.frozen_linear import FrozenLinear
from worker.training.native.kernels import Term, TrainerKernels


class NativeLinears(torch.autograd.Function):
    """Takes the input, the layers, the kernels, and A and B of each layer that has an adapter."""

    @staticmethod
    def forward(
        ctx: Any, input_NI: Tensor, layers: Sequence[FrozenLinear], kernels: TrainerKernels, *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        all_a, all_b = adapters[::2], adapters[1::2]
        ranks = [slice(end - len(a_RI), end) for a_RI, end in zip(all_a, accumulate(map(len, all_a)), strict=True)]
        a_RI = torch.cat(all_a) if all_a else None
        lora_a_NR = None
        if a_RI is not None:
            lora_a_NR = kernels.product(input_NI.new_empty(len(input_NI), len(a_RI)), Term(input_NI, a_RI.t()))
        adapted = iter(zip(all_b, ranks, strict=True))
        outputs = []
        for layer in layers:
            terms = []
            if layer.adapter is not None and lora_a_NR is not None:
                b_OR, own = next(adapted)
                terms.append(Term(lora_a_NR[:, own], b_OR.t(), layer.scale))
            outputs.append(kernels.linear(input_NI, layer.weight_OI, layer.bias_O, *terms))
        # without an adapter nobody needs the input again
        ctx.save_for_backward(None if a_RI is None else input_NI, lora_a_NR, a_RI, *all_b)
        ctx.layers, ctx.kernels, ctx.ranks = layers, kernels, ranks
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, lora_a_NR, a_RI, *all_b = ctx.saved_tensors
        kernels: TrainerKernels = ctx.kernels
        terms = [Term(grad_NO, layer.weight_OI) for layer, grad_NO in zip(ctx.layers, grads, strict=True)]
        adapter_grads: list[Tensor] = []
        if all_b:
            lora_a_grad_NR = torch.empty_like(lora_a_NR)
            adapted = iter(zip(all_b, ctx.ranks, strict=True))
            b_grads = []
            for layer, grad_NO in zip(ctx.layers, grads, strict=True):
                if layer.adapter is None:
                    continue
                b_OR, own = next(adapted)
                kernels.product(lora_a_grad_NR[:, own], Term(grad_NO, b_OR, layer.scale))
                # this way round a block's columns are wide and its rows few
                b_grads.append(torch.empty_like(b_OR))
                kernels.product(b_grads[-1].t(), Term(lora_a_NR[:, own].t(), grad_NO, layer.scale))
            a_grad_RI = kernels.product(torch.empty_like(a_RI), Term(lora_a_grad_NR.t(), input_NI))
            a_grads = [a_grad_RI[own] for own in ctx.ranks]
            adapter_grads = [grad for pair in zip(a_grads, b_grads, strict=True) for grad in pair]
            terms.append(Term(lora_a_grad_NR, a_RI))
        input_grad = None
        if ctx.needs_input_grad[0]:
            like = grads[0]
            input_grad = kernels.product(like.new_empty(len(like), ctx.layers[0].weight_OI.shape[1]), *terms)
        return input_grad, None, None, *adapter_grads


def native_attention(
    query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, begins: Tensor, kernels: TrainerKernels
) -> Tensor:
    """Give what `own_attention` gives; ``begins`` are the segments' first rows, and at last where all end."""
    attended_NAD: Tensor = _Attention.apply(query_NAD, key_NGD, value_NGD, scale, begins, kernels)  # type: ignore[no-untyped-call]
    return attended_NAD


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_NAD: Tensor,
        key_NGD: Tensor,
        value_NGD: Tensor,
        scale: float,
        begins: Tensor,
        kernels: TrainerKernels,
    ) -> Tensor:
        states = query_NAD.contiguous(), key_NGD.contiguous(), value_NGD.contiguous()
        result_NAD, log_sums_NA = kernels.attention(*states, begins, scale)
        ctx.save_for_backward(*states, result_NAD, log_sums_NA, begins)
        ctx.scale, ctx.kernels = scale, kernels
        return result_NAD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_NAD, key_NGD, value_NGD, *attended, begins = ctx.saved_tensors
        states = query_NAD, key_NGD, value_NGD
        grads = ctx.kernels.attention_back(gradients[0].contiguous(), attended, states, begins, ctx.scale)
        return *grads, None, None, None
