"""Our own decoder blocks for serving: few products over weights laid side by side.

They take the weights over from transformers' modules, whose linear layers are left without. Which blocks an
architecture has is said by its descriptor, which of its options are known by that and by `find_own_blocks`; whether
the result is right is tried by ``runner``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.table import find_architecture
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.forward_pass import StepLora
from worker.inference.model.ops import Heads, Ops, Rotation
from worker.inference.model.projection import AdaptedProjection, Make
from worker.inference.model.step_layout import Step
from worker.inference.model.step_timer import NO_TIMER, StepTimer
from worker.inference.model.timed_ops import TimedOps

# Of which the angles do not depend on how long a text is.
_FIXED_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})


@dataclass(frozen=True)
class StepInputs:
    """What all blocks of one step share."""

    step: Step
    rotation: Rotation
    lora: LoraPlan
    ops: Ops


class DecoderBlock:
    """Attention and MLP, each behind a norm and added to what went in, or both behind one norm.

    ``projections`` are by the name of each linear layer in them.
    """

    def __init__(self, block: Architecture, layer: nn.Module, name: str, number: int, make: Make) -> None:
        self._number = number
        self._heads = _heads(layer.self_attn)
        self._attention_norm = _Norm(block, layer.get_submodule(block.attention_norm))
        self._mlp_norm = None if block.mlp_norm is None else _Norm(block, layer.get_submodule(block.mlp_norm))
        self._is_gated = block.is_gated
        projections = _Projections(layer, name, make)
        self._qkv = projections.of(block.query, block.key, block.value)
        self._attention_out = projections.of(block.attention_out)
        self._mlp_in = projections.of(*block.mlp_in)
        self._mlp_out = projections.of(block.mlp_out)
        self.projections = projections.by_name

    def __call__(self, states_NH: Tensor, inputs: StepInputs) -> Tensor:
        ops = inputs.ops
        normed = self._attention_norm(states_NH, ops)
        qkv = _project(self._qkv, normed, inputs)
        attended = ops.attend(qkv, self._heads, inputs.rotation, inputs.step, self._number)
        states_NH = _project_onto(states_NH, self._attention_out, attended, inputs)
        mlp_input = normed if self._mlp_norm is None else self._mlp_norm(states_NH, ops)
        mlp_inner = _project(self._mlp_in, mlp_input, inputs)
        activated = ops.gated_silu(mlp_inner) if self._is_gated else ops.gelu_tanh(mlp_inner)
        return _project_onto(states_NH, self._mlp_out, activated, inputs)


class OwnModel:
    """A model of our own blocks. Implements ``forward_pass.Pass``."""

    def __init__(self, model: PreTrainedModel, block: Architecture, make: Make, ops: Ops, context_tokens: int) -> None:
        """Take a model over whose blocks `find_own_blocks` found; it cannot be run by transformers afterwards."""
        decoder: Any = model.model
        self._ops = ops
        self._embedding_VH = decoder.embed_tokens.weight.detach()
        self._norm = _Norm(block, decoder.get_submodule(block.final_norm))
        positions = torch.arange(context_tokens, device=model.device)
        like = torch.empty(0, dtype=torch.float32, device=model.device)
        cos_1PE, sin_1PE = decoder.rotary_emb(like, positions[None])
        self._cos_PE, self._sin_PE = cos_1PE[0].clone(), sin_1PE[0].clone()
        self._signed_sin_PE = self._sin_PE.clone()
        self._signed_sin_PE[:, : self._sin_PE.shape[1] // 2] *= -1
        self._blocks = [
            DecoderBlock(block, layer, f"model.layers.{number}", number, make)
            for number, layer in enumerate(decoder.layers[: decoder.config.num_hidden_layers])
        ]
        head = _Projections(model, "", make)
        self._head = head.of("lm_head")
        self.projections: dict[str, AdaptedProjection] = {}
        for projections in (*(own.projections for own in self._blocks), head.by_name):
            self.projections |= projections

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        ops = TimedOps(self._ops, timer) if timer.is_on else self._ops
        angles = (self._cos_PE, self._sin_PE, self._signed_sin_PE)
        rotation = Rotation(*(values_PE[step.positions_N] for values_PE in angles))
        inputs = StepInputs(step, rotation, lora.blocks, ops)
        states_NH = embedding(step.ids_N, self._embedding_VH)
        for block in self._blocks:
            states_NH = block(states_NH, inputs)
        if not step.is_wanted_whole:
            states_NH = states_NH[step.wanted_K]
        normed = self._norm(states_NH, ops)
        logits_KV = ops.project(self._head, normed)
        ops.add_lora(self._head.group, normed, logits_KV, lora.head)
        return logits_KV


def find_own_blocks(model: PreTrainedModel) -> Architecture | None:
    """Give the descriptor of a model's blocks; None where there is none, or an option is not known here."""
    config = model.config
    architecture = find_architecture(config.to_dict())
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        return None
    if (config.rope_parameters or {}).get("rope_type", "default") not in _FIXED_ROTATIONS:
        return None
    return architecture


class _Norm:
    """A norm's weights, computed by a step's operations."""

    def __init__(self, block: Architecture, norm: Any) -> None:
        self._is_rms, self._norm = block.norm == "rms", norm

    def __call__(self, states_NH: Tensor, ops: Ops) -> Tensor:
        norm = self._norm
        if self._is_rms:
            return ops.rms_norm(states_NH, norm.weight, norm.variance_epsilon)
        return ops.layer_norm(states_NH, norm.weight, norm.bias, norm.eps)


class _Projections:
    """Makes the projections of one module, and leaves its linear layers without weights."""

    def __init__(self, module: nn.Module, name: str, make: Make) -> None:
        self._module, self._name, self._make = module, name, make
        self.by_name: dict[str, AdaptedProjection] = {}

    def of(self, *paths: str) -> AdaptedProjection:
        """Put layers that read the same side by side; they are named by their paths inside the module."""
        layers: Sequence[Any] = [self._module.get_submodule(path) for path in paths]
        names = [f"{self._name}.{path}" if self._name else path for path in paths]
        projection = AdaptedProjection(names, layers, self._make)
        for layer in layers:
            layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        self.by_name |= dict.fromkeys(names, projection)
        return projection


def _project(projection: AdaptedProjection, x_NI: Tensor, inputs: StepInputs) -> Tensor:
    y_NO = inputs.ops.project(projection, x_NI)
    inputs.ops.add_lora(projection.group, x_NI, y_NO, inputs.lora)
    return y_NO


def _project_onto(states_NH: Tensor, projection: AdaptedProjection, x_NI: Tensor, inputs: StepInputs) -> Tensor:
    """Add a projection to what is there already, in one operation where no DoRA scales its outputs."""
    if inputs.lora.dora:
        return states_NH + _project(projection, x_NI, inputs)
    sum_NH = inputs.ops.project_onto(states_NH, projection, x_NI)
    inputs.ops.add_lora(projection.group, x_NI, sum_NH, inputs.lora)
    return sum_NH


def _heads(attention: Any) -> Heads:
    config = attention.config
    return Heads(config.num_attention_heads, config.num_key_value_heads, attention.head_dim, attention.scaling)
