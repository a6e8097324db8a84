"""Our own decoder blocks for serving, Phi's and Llama's: few products over weights laid side by side.

They take the weights over from transformers' modules, whose linear layers are left without. Which architectures and
which of their options are known is decided here; whether the result is right is tried by ``runner``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, SiLUActivation

from worker.inference.lora.plan import LoraPlan
from worker.inference.model.forward_pass import StepLora
from worker.inference.model.layout import Step
from worker.inference.model.ops import Heads, Ops, Rotation
from worker.inference.model.projection import AdaptedProjection, Make
from worker.inference.model.step_timer import NO_TIMER, StepTimer
from worker.inference.model.timed_ops import TimedOps

# Of which the angles do not depend on how long a text is.
_FIXED_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one step share."""

    step: Step
    rotation: Rotation
    lora: LoraPlan
    ops: Ops


class Block(Protocol):
    """A decoder layer; ``projections`` are by the name of each linear layer in them."""

    projections: dict[str, AdaptedProjection]

    def __call__(self, states_NH: Tensor, inputs: BlockInputs) -> Tensor: ...


class LlamaBlock:
    """Attention, then a gated network, each behind a norm and added to what went in."""

    def __init__(self, layer: Any, name: str, number: int, make: Make) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._number = number
        self._heads = _heads(attention)
        self._norm, self._second_norm = layer.input_layernorm, layer.post_attention_layernorm
        maker = _Maker(name, make)
        self._qkv = maker.make("self_attn", attention, "q_proj", "k_proj", "v_proj")
        self._out = maker.make("self_attn", attention, "o_proj")
        self._gate_up = maker.make("mlp", mlp, "gate_proj", "up_proj")
        self._down = maker.make("mlp", mlp, "down_proj")
        self.projections = maker.made

    def __call__(self, states_NH: Tensor, inputs: BlockInputs) -> Tensor:
        ops = inputs.ops
        normed = ops.rms_norm(states_NH, self._norm.weight, self._norm.variance_epsilon)
        qkv = _project(self._qkv, normed, inputs)
        attended = ops.attend(qkv, self._heads, inputs.rotation, inputs.step, self._number)
        states_NH = _project_onto(states_NH, self._out, attended, inputs)
        normed = ops.rms_norm(states_NH, self._second_norm.weight, self._second_norm.variance_epsilon)
        gated = ops.gated_silu(_project(self._gate_up, normed, inputs))
        return _project_onto(states_NH, self._down, gated, inputs)


class PhiBlock:
    """Attention and network side by side behind one norm, both added to what went in."""

    def __init__(self, layer: Any, name: str, number: int, make: Make) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._number = number
        self._heads = _heads(attention)
        self._norm = layer.input_layernorm
        maker = _Maker(name, make)
        self._qkv = maker.make("self_attn", attention, "q_proj", "k_proj", "v_proj")
        self._dense = maker.make("self_attn", attention, "dense")
        self._fc1 = maker.make("mlp", mlp, "fc1")
        self._fc2 = maker.make("mlp", mlp, "fc2")
        self.projections = maker.made

    def __call__(self, states_NH: Tensor, inputs: BlockInputs) -> Tensor:
        ops = inputs.ops
        normed = ops.layer_norm(states_NH, self._norm.weight, self._norm.bias, self._norm.eps)
        qkv = _project(self._qkv, normed, inputs)
        attended = ops.attend(qkv, self._heads, inputs.rotation, inputs.step, self._number)
        inner = ops.gelu_tanh(_project(self._fc1, normed, inputs))
        states_NH = _project_onto(states_NH, self._dense, attended, inputs)
        return _project_onto(states_NH, self._fc2, inner, inputs)


class OwnPass:
    """A model of our own blocks. Implements ``passes.Pass``."""

    def __init__(self, model: PreTrainedModel, make: Make, ops: Ops, context_tokens: int) -> None:
        """Take a model over whose blocks `knows` knows; it cannot be run by transformers afterwards."""
        decoder: Any = model.model
        self._ops = ops
        self._embedding_VH = decoder.embed_tokens.weight.detach()
        self._norm = decoder.final_layernorm if hasattr(decoder, "final_layernorm") else decoder.norm
        positions = torch.arange(context_tokens, device=model.device)
        like = torch.empty(0, dtype=torch.float32, device=model.device)
        cos_1LR, sin_1LR = decoder.rotary_emb(like, positions[None])
        self._cos_LR, self._sin_LR = cos_1LR[0].clone(), sin_1LR[0].clone()
        self._signed_sin_LR = self._sin_LR.clone()
        self._signed_sin_LR[:, : self._sin_LR.shape[1] // 2] *= -1
        self._blocks: list[Block] = []
        self.projections: dict[str, AdaptedProjection] = {}
        for number, layer in enumerate(decoder.layers[: decoder.config.num_hidden_layers]):
            block = _KINDS[type(layer).__name__](layer, f"model.layers.{number}", number, make)
            self._blocks.append(block)
            self.projections |= block.projections
        maker = _Maker("", make)
        self._head = maker.make("", model, "lm_head")
        self.projections |= maker.made

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        ops = TimedOps(self._ops, timer) if timer.is_on else self._ops
        angles = (self._cos_LR, self._sin_LR, self._signed_sin_LR)
        rotation = Rotation(*(values_LR[step.positions_N] for values_LR in angles))
        inputs = BlockInputs(step, rotation, lora.blocks, ops)
        states_NH = embedding(step.ids_N, self._embedding_VH)
        for block in self._blocks:
            states_NH = block(states_NH, inputs)
        if not step.is_wanted_whole:
            states_NH = states_NH[step.wanted_W]
        normed = self._normed(states_NH)
        logits_WV = ops.project(self._head, normed)
        ops.add_lora(self._head.group, normed, logits_WV, lora.head)
        return logits_WV

    def _normed(self, states_NH: Tensor) -> Tensor:
        if isinstance(self._norm, nn.LayerNorm):
            return self._ops.layer_norm(states_NH, self._norm.weight, self._norm.bias, self._norm.eps)
        norm: Any = self._norm
        return self._ops.rms_norm(states_NH, norm.weight, norm.variance_epsilon)


def knows(model: PreTrainedModel) -> bool:
    """Tell whether all blocks of a model are of kinds that we have, with none of the options that we have not."""
    decoder: Any = getattr(model, "model", None)
    config = model.config
    kind = type(model).__name__
    if kind not in ("PhiForCausalLM", "LlamaForCausalLM") or not isinstance(model.get_output_embeddings(), nn.Linear):
        return False
    if (config.rope_parameters or {}).get("rope_type", "default") not in _FIXED_ROTATIONS:
        return False
    return all(_knows_layer(layer) for layer in decoder.layers)


def _knows_layer(layer: Any) -> bool:
    match type(layer).__name__:
        case "PhiDecoderLayer":
            return not layer.self_attn.qk_layernorm and isinstance(layer.mlp.activation_fn, GELUTanh)
        case "LlamaDecoderLayer":
            return isinstance(layer.mlp.act_fn, nn.SiLU | SiLUActivation)
    return False


_KINDS: Final[dict[str, Any]] = {"LlamaDecoderLayer": LlamaBlock, "PhiDecoderLayer": PhiBlock}


class _Maker:
    """Makes the projections of one block, and leaves its linear layers without weights."""

    def __init__(self, prefix: str, make: Make) -> None:
        self._prefix, self._make = prefix, make
        self.made: dict[str, AdaptedProjection] = {}

    def make(self, path: str, module: Any, *names: str) -> AdaptedProjection:
        layers: Sequence[nn.Linear] = [getattr(module, name) for name in names]
        full = [".".join(part for part in (self._prefix, path, name) if part) for name in names]
        projection = AdaptedProjection(full, layers, self._make)
        for layer in layers:
            layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        self.made |= dict.fromkeys(full, projection)
        return projection


def _project(projection: AdaptedProjection, x_NI: Tensor, inputs: BlockInputs) -> Tensor:
    y_NO = inputs.ops.project(projection, x_NI)
    inputs.ops.add_lora(projection.group, x_NI, y_NO, inputs.lora)
    return y_NO


def _project_onto(states_NH: Tensor, projection: AdaptedProjection, x_NI: Tensor, inputs: BlockInputs) -> Tensor:
    """Add a projection to what is there already, in one operation where nothing stretches its outputs."""
    if inputs.lora.stretched:
        return states_NH + _project(projection, x_NI, inputs)
    sum_NH = inputs.ops.project_onto(states_NH, projection, x_NI)
    inputs.ops.add_lora(projection.group, x_NI, sum_NH, inputs.lora)
    return sum_NH


def _heads(attention: Any) -> Heads:
    config = attention.config
    return Heads(config.num_attention_heads, config.num_key_value_heads, attention.head_dim, attention.scaling)
