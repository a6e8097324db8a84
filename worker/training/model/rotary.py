"""Rotary position embedding with its backward pass, computed in float32 whatever the type of queries and keys.

Su 2021, 2104.09864; halves are paired as in GPT-NeoX. A rotation's gradient is rotated back. E are the numbers of
a head that are rotated.
"""

from typing import Any

import torch
from torch import Tensor

from worker.training.native.kernels import TrainerKernels


def rotate(states_NAD: Tensor, cos_NE: Tensor, sin_NE: Tensor, kernels: TrainerKernels | None = None) -> Tensor:
    """Rotate the first E of a head's D values; ``cos`` and ``sin`` are transformers', each half of E the same."""
    rotated_NAD: Tensor = _Rotary.apply(states_NAD, cos_NE, sin_NE, kernels)  # type: ignore[no-untyped-call]
    return rotated_NAD


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_NAD: Tensor, cos_NE: Tensor, sin_NE: Tensor, kernels: TrainerKernels | None) -> Tensor:
        ctx.save_for_backward(cos_NE, sin_NE)
        ctx.kernels = kernels
        if kernels is not None:
            return kernels.rotate(states_NAD.contiguous(), cos_NE, sin_NE, back=False)
        return _rotate(states_NAD, cos_NE, sin_NE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos_NE, sin_NE = ctx.saved_tensors
        if ctx.kernels is not None:
            states_grad = ctx.kernels.rotate(gradients[0].contiguous(), cos_NE, sin_NE, back=True)
            return states_grad, None, None, None
        return _rotate(gradients[0], cos_NE, -sin_NE), None, None, None


def _rotate(states_NAD: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    half = cos_NE.shape[1] // 2
    cos, sin = cos_NE[:, None, :half], sin_NE[:, None, :half]
    first, second = states_NAD[..., :half].float(), states_NAD[..., half : 2 * half].float()
    rotated_NAD = torch.empty_like(states_NAD)
    rotated_NAD[..., :half] = first * cos - second * sin
    rotated_NAD[..., half : 2 * half] = second * cos + first * sin
    rotated_NAD[..., 2 * half :] = states_NAD[..., 2 * half :]
    return rotated_NAD
