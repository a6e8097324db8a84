"""Our own forward pass of the decoder blocks that we know, Phi's and Llama's, over packed rows.

It reads transformers' modules and PEFT's adapters in them, and changes neither. A last block computes only the
rows that are asked for: keys and values of all, everything else of those. Axes: N rows, K rows asked for, H width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from worker.training.model.attention import Attention
from worker.training.model.lora_linear import project
from worker.training.model.rotary import rotate
from worker.training.model.techniques import Techniques


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one forward pass share."""

    attention: Attention
    cos_NR: Tensor
    sin_NR: Tensor
    techniques: Techniques


Block = Callable[[Any, Tensor, BlockInputs, Tensor | None], Tensor]
"""Gives a block's output (N, H), or with rows (K,) only those: (K, H)."""


def find_block(layer: Any) -> Block | None:
    """Give the function that computes such a layer; None for a layer that we do not know."""
    match type(layer).__name__:
        case "PhiDecoderLayer" if not layer.self_attn.qk_layernorm:
            return _phi
        case "LlamaDecoderLayer" if isinstance(layer.mlp.act_fn, nn.SiLU | SiLUActivation):
            return _llama
    return None


def rms_norm(states_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
    """Normalise by the root mean square in float32 and keep only the input for backward; ``weight`` is frozen."""
    found: Tensor = _RmsNorm.apply(states_NH, weight_H, epsilon)  # type: ignore[no-untyped-call]
    return found


def _phi(layer: Any, states_NH: Tensor, inputs: BlockInputs, rows_K: Tensor | None) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    normed_NH = layer.input_layernorm(states_NH).to(states_NH.dtype)  # autocast on CUDA would leave it in float32
    wide = [attention.q_proj, mlp.fc1]
    if rows_K is None:
        query, inner, key, value = project(normed_NH, [*wide, attention.k_proj, attention.v_proj], inputs.techniques)
    else:
        query, inner = project(normed_NH.index_select(0, rows_K), wide, inputs.techniques)
        key, value = project(normed_NH, [attention.k_proj, attention.v_proj], inputs.techniques)
    [attended] = project(_attend(attention, query, key, value, inputs, rows_K), [attention.dense], inputs.techniques)
    [thought] = project(mlp.activation_fn(inner), [mlp.fc2], inputs.techniques)
    return attended + thought + _select(states_NH, rows_K)


def _llama(layer: Any, states_NH: Tensor, inputs: BlockInputs, rows_K: Tensor | None) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    normed_NH = _normed(layer.input_layernorm, states_NH)
    if rows_K is None:
        query, key, value = project(
            normed_NH, [attention.q_proj, attention.k_proj, attention.v_proj], inputs.techniques
        )
    else:
        [query] = project(normed_NH.index_select(0, rows_K), [attention.q_proj], inputs.techniques)
        key, value = project(normed_NH, [attention.k_proj, attention.v_proj], inputs.techniques)
    [attended] = project(_attend(attention, query, key, value, inputs, rows_K), [attention.o_proj], inputs.techniques)
    states = _select(states_NH, rows_K) + attended
    gate, up = project(_normed(layer.post_attention_layernorm, states), [mlp.gate_proj, mlp.up_proj], inputs.techniques)
    gated: Tensor = _GatedSilu.apply(gate, up)  # type: ignore[no-untyped-call]
    [thought] = project(gated, [mlp.down_proj], inputs.techniques)
    return states + thought


def _attend(
    attention: Any, query: Tensor, key_NI: Tensor, value_NI: Tensor, inputs: BlockInputs, rows_K: Tensor | None
) -> Tensor:
    """Attend with all queries, or with those of some rows: the others are zeros, whose results nobody reads."""
    if rows_K is not None:
        query = query.new_zeros(len(key_NI), query.shape[1]).index_copy(0, rows_K, query)
    query_NHD, key_NGD, value_NGD = (
        states.unflatten(1, (-1, attention.head_dim)) for states in (query, key_NI, value_NI)
    )
    attended_NHD = inputs.attention(
        rotate(query_NHD, inputs.cos_NR, inputs.sin_NR),
        rotate(key_NGD, inputs.cos_NR, inputs.sin_NR),
        value_NGD,
        attention.scaling,
    )
    return _select(attended_NHD.flatten(1), rows_K)


def _select(states_NH: Tensor, rows_K: Tensor | None) -> Tensor:
    return states_NH if rows_K is None else states_NH.index_select(0, rows_K)


def _normed(norm: Any, states_NH: Tensor) -> Tensor:
    return rms_norm(states_NH, norm.weight, norm.variance_epsilon)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        states = states_NH.float()
        scale_N1 = torch.rsqrt(states.square().mean(1, keepdim=True) + epsilon)
        ctx.save_for_backward(states_NH, weight_H, scale_N1)
        return (states * scale_N1).to(states_NH.dtype) * weight_H

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        states_NH, weight_H, scale_N1 = ctx.saved_tensors
        normed = states_NH.float() * scale_N1
        slope = (gradients[0] * weight_H).float()
        slope -= normed * (slope * normed).mean(1, keepdim=True)
        return (slope * scale_N1).to(states_NH.dtype), None, None


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up, of which autograd would keep silu(gate) too."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        [slope] = gradients
        return torch.ops.aten.silu_backward(slope * up, gate), nn.functional.silu(gate).mul_(slope)
