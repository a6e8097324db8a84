"""The autograd functions that are the trainer's kernels in both directions: attention, and adapted linear layers.

They give what ``cpu_attention`` and ``lora_linear`` compute with torch, which they are held against. An adapter is no
product of its own: its rank is as many more inputs of the frozen product, forwards and back, so that each output is
written once; for each stretch of rows those of its own adapter. Axes are those of
``worker.training.model.attention``; R are the ranks of all adapters of one input.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from worker.training.model.frozen_linear import FrozenLinear
from worker.training.native.kernels import OwnTerm, Term, TrainerKernels


class NativeLinears(torch.autograd.Function):
    """Takes the input, the layers, each stretch's rows, the kernels, and by stretch A and B of each adapted layer."""

    @staticmethod
    def forward(
        ctx: Any,
        input_NI: Tensor,
        layers: Sequence[FrozenLinear],
        rows: Sequence[slice],
        kernels: TrainerKernels,
        *adapters: Tensor,
    ) -> tuple[Tensor, ...]:
        own: list[list[OwnTerm]] = [[] for _ in layers]  # each layer's, by stretch
        kept: list[Tensor | None] = []
        for place, part in enumerate(rows):
            all_factors = [layer.factors[place] for layer in layers]
            all_a = [factors.a_RI for factors in all_factors if factors is not None]
            a_RI = torch.cat(all_a) if all_a else None
            lora_a_NR = None
            if a_RI is not None:
                input_part = input_NI[part]
                lora_a_NR = kernels.product(input_NI.new_empty(len(input_part), len(a_RI)), Term(input_part, a_RI.t()))
            ranks = iter(_slices(all_a))
            for terms, factors in zip(own, all_factors, strict=True):
                term = None
                if factors is not None and lora_a_NR is not None:
                    term = Term(lora_a_NR[:, next(ranks)], factors.b_OR.t(), factors.scale)
                terms.append(OwnTerm(part, term))
            kept += [lora_a_NR, a_RI]
        outputs = [
            kernels.linear(input_NI, layer.weight_OI, layer.bias_O, terms if any(layer.factors) else ())
            for layer, terms in zip(layers, own, strict=True)
        ]
        # without an adapter nobody needs the input again
        ctx.save_for_backward(input_NI if adapters else None, *kept, *adapters[1::2])
        ctx.layers, ctx.kernels, ctx.rows = layers, kernels, rows
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, *kept = ctx.saved_tensors
        kernels: TrainerKernels = ctx.kernels
        all_b = iter(kept[2 * len(ctx.rows) :])
        adapter_grads: list[Tensor] = []
        to_input: list[OwnTerm] = []
        for place, part in enumerate(ctx.rows):
            lora_a_NR, a_RI = kept[2 * place : 2 * place + 2]
            adapted = [
                (grad_NO[part], factors.scale)
                for layer, grad_NO in zip(ctx.layers, grads, strict=True)
                if (factors := layer.factors[place]) is not None
            ]
            if not adapted:
                to_input.append(OwnTerm(part, None))
                continue
            those_b = [next(all_b) for _ in adapted]
            ranks = _slices([b_OR.t() for b_OR in those_b])
            lora_a_grad_NR, b_grads = torch.empty_like(lora_a_NR), []
            for (grad_NO, scale), b_OR, own in zip(adapted, those_b, ranks, strict=True):
                kernels.product(lora_a_grad_NR[:, own], Term(grad_NO, b_OR, scale))
                # this way round a block's columns are wide and its rows few
                b_grads.append(torch.empty_like(b_OR))
                kernels.product(b_grads[-1].t(), Term(lora_a_NR[:, own].t(), grad_NO, scale))
            a_grad_RI = kernels.product(torch.empty_like(a_RI), Term(lora_a_grad_NR.t(), input_NI[part]))
            for own, b_grad_OR in zip(ranks, b_grads, strict=True):
                adapter_grads += [a_grad_RI[own], b_grad_OR]
            to_input.append(OwnTerm(part, Term(lora_a_grad_NR, a_RI)))
        input_grad = None
        if ctx.needs_input_grad[0]:
            terms = [Term(grad_NO, layer.weight_OI) for layer, grad_NO in zip(ctx.layers, grads, strict=True)]
            like = grads[0]
            input_grad = like.new_empty(len(like), ctx.layers[0].weight_OI.shape[1])
            kernels.product(input_grad, *terms, own=to_input if adapter_grads else ())
        return input_grad, None, None, None, *adapter_grads


def _slices(all_a: Sequence[Tensor]) -> list[slice]:
    """Give each A's place among all of them, one behind the other."""
    ends = accumulate(map(len, all_a))
    return [slice(end - len(a_RI), end) for a_RI, end in zip(all_a, ends, strict=True)]


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
