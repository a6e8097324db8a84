"""The operations of a decoder block: what a block of our own asks for, and torch's answer.

Products are the projections' own; ``native_ops`` has the others in compiled code. Rotary embedding: Su 2021,
2104.09864; halves are paired as in GPT-NeoX.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.attention import Scoring, attend
from worker.inference.model.block_parts import Heads
from worker.inference.model.projections.adapted_projection import AdaptedProjection
from worker.inference.model.step_layout import Step


@dataclass(frozen=True)
class Rotation:
    """Float32 cosines and sines of the step's positions, (N, E), a head's first E numbers being rotated.

    The two halves of a row are the same; ``signed_sin_NE`` has the first half negative.
    """

    cos_NE: Tensor
    sin_NE: Tensor
    signed_sin_NE: Tensor

    def of(self, tokens: slice) -> "Rotation":
        """Give the rotation of some of the tokens."""
        return Rotation(self.cos_NE[tokens], self.sin_NE[tokens], self.signed_sin_NE[tokens])


class Ops(Protocol):
    """What both ways can do; results agree up to rounding. ``gelu_tanh`` may write over its input."""

    def project(self, projection: AdaptedProjection, x_NI: Tensor) -> Tensor: ...

    def project_onto(self, states_NO: Tensor, projection: AdaptedProjection, x_NI: Tensor) -> Tensor: ...

    def rms_norm(self, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor: ...

    def layer_norm(self, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor: ...

    def gated_silu(self, gate_up_NI: Tensor) -> Tensor:
        """Give silu(gate) · up, of the two halves side by side."""
        ...

    def gelu_tanh(self, x_NI: Tensor) -> Tensor: ...

    def attend(self, qkv_NO: Tensor, heads: Heads, rotation: Rotation, step: Step, layer: int) -> Tensor:
        """Rotate, cache and attend: (N, A·D)."""
        ...

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None: ...


class TorchOps:
    """Plain torch, on any device."""

    def project(self, projection: AdaptedProjection, x_NI: Tensor) -> Tensor:
        return projection(x_NI)

    def project_onto(self, states_NO: Tensor, projection: AdaptedProjection, x_NI: Tensor) -> Tensor:
        return projection.onto(states_NO, x_NI)

    def rms_norm(self, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        return rms_norm(x_NH, weight_H.shape, weight_H, epsilon)

    def layer_norm(self, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
        return layer_norm(x_NH, weight_H.shape, weight_H, bias_H, epsilon)

    def gated_silu(self, gate_up_NI: Tensor) -> Tensor:
        gate, up = gate_up_NI.chunk(2, dim=1)
        return silu(gate).mul_(up)

    def gelu_tanh(self, x_NI: Tensor) -> Tensor:
        return gelu(x_NI, approximate="tanh")

    def attend(self, qkv_NO: Tensor, heads: Heads, rotation: Rotation, step: Step, layer: int) -> Tensor:
        query, key, value = split_heads(qkv_NO, heads, rotation)
        return attend(query, key, value, step, layer, Scoring(heads.scale)).flatten(1)

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        group.add(x_NI, y_NO, plan)


def split_heads(qkv_NO: Tensor, heads: Heads, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Give rotated query_NAD and key_NGD, and value_NGD."""
    all_NAD = qkv_NO.unflatten(1, (-1, heads.head_dim))
    rotated_NAD = rotate(all_NAD[:, : heads.heads + heads.kv_heads], rotation)
    query, key = rotated_NAD.split((heads.heads, heads.kv_heads), dim=1)
    return query, key, all_NAD[:, heads.heads + heads.kv_heads :]


def rotate(states_NAD: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the first E of each head's D numbers, in float32."""
    width = rotation.cos_NE.shape[1]
    part_NAE = states_NAD[..., :width]
    rotated_NAE = torch.addcmul(
        part_NAE * rotation.cos_NE[:, None], part_NAE.roll(width // 2, dims=2), rotation.signed_sin_NE[:, None]
    ).to(states_NAD.dtype)
    return rotated_NAE if width == states_NAD.shape[2] else torch.cat([rotated_NAE, states_NAD[..., width:]], dim=2)
