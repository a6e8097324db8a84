"""Rotary position embedding with its backward pass, computed in float32 whatever the type of queries and keys.

Su 2021, 2104.09864; halves are paired as in GPT-NeoX. A rotation's slope is rotated back.
"""

from typing import Any

import torch
from torch import Tensor


def rotate(states_NHD: Tensor, cos_NR: Tensor, sin_NR: Tensor) -> Tensor:
    """Rotate the first R of a head's D values; ``cos`` and ``sin`` are transformers', each half of R the same."""
    found: Tensor = _Rotary.apply(states_NHD, cos_NR, sin_NR)  # type: ignore[no-untyped-call]
    return found


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_NHD: Tensor, cos_NR: Tensor, sin_NR: Tensor) -> Tensor:
        ctx.save_for_backward(cos_NR, sin_NR)
        return _turn(states_NHD, cos_NR, sin_NR)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos_NR, sin_NR = ctx.saved_tensors
        return _turn(gradients[0], cos_NR, -sin_NR), None, None


def _turn(states_NHD: Tensor, cos_NR: Tensor, sin_NR: Tensor) -> Tensor:
    half = cos_NR.shape[1] // 2
    cos, sin = cos_NR[:, None, :half], sin_NR[:, None, :half]
    first, second = states_NHD[..., :half].float(), states_NHD[..., half : 2 * half].float()
    turned = torch.empty_like(states_NHD)
    turned[..., :half] = first * cos - second * sin
    turned[..., half : 2 * half] = second * cos + first * sin
    turned[..., 2 * half :] = states_NHD[..., 2 * half :]
    return turned
