"""Our own forward pass of the decoder blocks that have a descriptor, over packed rows.

It reads transformers' modules and PEFT's adapters in them, and changes neither. A last block computes only the
rows that are asked for, K of them: keys and values of all, everything else of those. E are the numbers of a head that
are rotated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.base_models.architectures.architecture import Architecture
from worker.training.model.ablations import Techniques
from worker.training.model.attention import Attention
from worker.training.model.frozen_linear import Stretch
from worker.training.model.lora_linear import project
from worker.training.model.rotary import rotate
from worker.training.native.kernels import TrainerKernels


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one forward pass share."""

    architecture: Architecture
    attention: Attention
    cos_NE: Tensor
    sin_NE: Tensor
    stretches_N: Sequence[Stretch]  # whose adapter each row is computed with
    stretches_K: Sequence[Stretch]  # the same of the rows that a last block gives
    techniques: Techniques
    kernels: TrainerKernels | None  # None: torch's own operations
    keeps_less: bool  # norms and activations, which kernels compute in no time, are computed again backwards


def run_block(layer: nn.Module, states_NH: Tensor, inputs: BlockInputs, rows_K: Tensor | None) -> Tensor:
    """Give a block's output (N, H), or with rows only those: (K, H)."""
    block = inputs.architecture
    norm = partial(_normed, block, layer.get_submodule(block.attention_norm), kernels=inputs.kernels)
    normed_NH = norm(states_NH)
    again = partial(norm, states_NH.detach())
    mlp_layers = [layer.get_submodule(name) for name in block.mlp_in]
    query_layers = [layer.get_submodule(block.query), *(mlp_layers if block.is_parallel else ())]
    key_value_layers = [layer.get_submodule(name) for name in (block.key, block.value)]
    all_rows = inputs.stretches_N
    if rows_K is None:
        given = all_rows
        query, *mlp_inner, key, value = _project(normed_NH, [*query_layers, *key_value_layers], all_rows, inputs, again)
    else:
        given = inputs.stretches_K
        query, *mlp_inner = _project(normed_NH.index_select(0, rows_K), query_layers, given, inputs)
        key, value = _project(normed_NH, key_value_layers, all_rows, inputs, again)
    attended = _attend(layer.self_attn, query, key, value, inputs, rows_K)
    [attention_output] = _project(attended, [layer.get_submodule(block.attention_out)], given, inputs)
    states = _select(states_NH, rows_K)
    if block.mlp_norm is None:
        return attention_output + _end_mlp(layer, mlp_inner, given, inputs) + states
    states = states + attention_output
    norm = partial(_normed, block, layer.get_submodule(block.mlp_norm), kernels=inputs.kernels)
    mlp_inner = _project(norm(states), mlp_layers, given, inputs, partial(norm, states.detach()))
    return states + _end_mlp(layer, mlp_inner, given, inputs)


def _end_mlp(
    layer: nn.Module, mlp_inner: Sequence[Tensor], stretches: Sequence[Stretch], inputs: BlockInputs
) -> Tensor:
    block = inputs.architecture
    activate = partial(_activate, block, layer, kernels=inputs.kernels)
    again = partial(activate, [inner.detach() for inner in mlp_inner])
    out = [layer.get_submodule(block.mlp_out)]
    [mlp_output] = _project(activate(mlp_inner), out, stretches, inputs, again)
    return mlp_output


def rms_norm(states_NH: Tensor, weight_H: Tensor, epsilon: float, kernels: TrainerKernels | None = None) -> Tensor:
    """Normalise by the root mean square in float32 and keep only the input for backward; ``weight`` is frozen."""
    normed_NH: Tensor = _RmsNorm.apply(states_NH, weight_H, epsilon, kernels)  # type: ignore[no-untyped-call]
    return normed_NH


def _project(
    input_NI: Tensor,
    layers: Sequence[nn.Module],
    stretches: Sequence[Stretch],
    inputs: BlockInputs,
    again: Callable[[], Tensor] | None = None,
) -> list[Tensor]:
    """Give each layer's output; with ``again``, which computes the input, backward may do so instead of keeping it."""
    if again is None or not inputs.keeps_less:
        return project(input_NI, layers, stretches, inputs.techniques, inputs.kernels)
    place, shape = input_NI.data_ptr(), input_NI.shape

    def keep(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        return again if tensor.data_ptr() == place and tensor.shape == shape else tensor

    def give(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        return project(input_NI, layers, stretches, inputs.techniques, inputs.kernels)


def _normed(block: Architecture, norm: Any, states_NH: Tensor, kernels: TrainerKernels | None) -> Tensor:
    if block.norm == "rms":
        return rms_norm(states_NH, norm.weight, norm.variance_epsilon, kernels)
    normed_NH: Tensor = norm(states_NH)
    return normed_NH.to(states_NH.dtype)  # autocast on CUDA would leave it in float32


def _activate(
    block: Architecture, layer: nn.Module, mlp_inner: Sequence[Tensor], kernels: TrainerKernels | None
) -> Tensor:
    activated: Tensor
    if block.activation_module is None:
        activated = _GatedSilu.apply(*mlp_inner, kernels)  # type: ignore[no-untyped-call]
    else:
        activated = layer.get_submodule(block.activation_module)(*mlp_inner)
    return activated


def _attend(
    attention: Any, query: Tensor, key_NI: Tensor, value_NI: Tensor, inputs: BlockInputs, rows_K: Tensor | None
) -> Tensor:
    """Attend with all queries, or with those of some rows: the others are zeros, whose results nobody reads."""
    if rows_K is not None:
        query = query.new_zeros(len(key_NI), query.shape[1]).index_copy(0, rows_K, query)
    query_NAD, key_NGD, value_NGD = (
        states.unflatten(1, (-1, attention.head_dim)) for states in (query, key_NI, value_NI)
    )
    attended_NAD = inputs.attention(
        rotate(query_NAD, inputs.cos_NE, inputs.sin_NE, inputs.kernels),
        rotate(key_NGD, inputs.cos_NE, inputs.sin_NE, inputs.kernels),
        value_NGD,
        attention.scaling,
    )
    return _select(attended_NAD.flatten(1), rows_K)


def _select(states_NH: Tensor, rows_K: Tensor | None) -> Tensor:
    return states_NH if rows_K is None else states_NH.index_select(0, rows_K)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_NH: Tensor, weight_H: Tensor, epsilon: float, kernels: TrainerKernels | None
    ) -> Tensor:
        ctx.kernels = kernels
        if kernels is not None:
            normed_NH, scale_N = kernels.rms_norm(states_NH, weight_H, epsilon)
            ctx.save_for_backward(states_NH, weight_H, scale_N)
            return normed_NH
        states = states_NH.float()
        scale_N1 = torch.rsqrt(states.square().mean(1, keepdim=True) + epsilon)
        ctx.save_for_backward(states_NH, weight_H, scale_N1)
        return (states * scale_N1).to(states_NH.dtype) * weight_H

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        states_NH, weight_H, scale_N1 = ctx.saved_tensors
        if ctx.kernels is not None:
            grad_NH = ctx.kernels.rms_norm_back(gradients[0].contiguous(), states_NH, weight_H, scale_N1)
            return grad_NH, None, None, None
        normed = states_NH.float() * scale_N1
        grad_NH = (gradients[0] * weight_H).float()
        grad_NH -= normed * (grad_NH * normed).mean(1, keepdim=True)
        return (grad_NH * scale_N1).to(states_NH.dtype), None, None, None


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up, of which autograd would keep silu(gate) too."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: TrainerKernels | None) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        if kernels is not None:
            return kernels.gated_silu(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        [grad] = gradients
        if ctx.kernels is not None:
            return *ctx.kernels.gated_silu_back(grad.contiguous(), gate, up), None
        return torch.ops.aten.silu_backward(grad * up, gate), nn.functional.silu(gate).mul_(grad), None
