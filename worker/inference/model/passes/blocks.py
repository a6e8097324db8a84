"""Our own decoder blocks for serving: few products over weights laid side by side.

Each tensor is read by its name when what computes with it is made. Which blocks an architecture has is said by its
descriptor, their numbers by transformers; whether the result is right is tried by ``runner_building``. Knows no
transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from core.base_models.architectures.architecture import Architecture
from worker.inference.kv_cache.slots import KvShape
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.block_parts import BlockParts, Heads, Norm
from worker.inference.model.joined_blocks import join
from worker.inference.model.ops import Ops, Rotation
from worker.inference.model.passes.forward_pass import StepLora
from worker.inference.model.projections.adapted_projection import AdaptedProjection, LinearWeights
from worker.inference.model.projections.projection import Make
from worker.inference.model.step_layout import Step
from worker.inference.model.step_timer import NO_TIMER, StepTimer
from worker.inference.model.timed_ops import TimedOps
from worker.inference.native.serial_threads import serial_threads
from worker.models.reference import BLOCKS, Reference
from worker.models.serving import EMBEDDING, StoredModel

_HEAD = "lm_head"
_MOST_READERS = 8  # blocks that are laid out at once: each holds a few of its weights twice meanwhile


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

    def __init__(self, block: Architecture, tensors: "_Tensors", number: int, make: Make) -> None:
        self._number = number
        name = f"{BLOCKS}{number}"
        self.projections: dict[str, AdaptedProjection] = {}

        def project(*paths: str) -> AdaptedProjection:
            names = [f"{name}.{path}" for path in paths]
            projection = AdaptedProjection(names, [tensors.linear(each) for each in names], make)
            self.projections |= dict.fromkeys(names, projection)
            return projection

        self.parts = BlockParts(
            attention_norm=tensors.norm(f"{name}.{block.attention_norm}"),
            mlp_norm=None if block.mlp_norm is None else tensors.norm(f"{name}.{block.mlp_norm}"),
            qkv=project(block.query, block.key, block.value),
            attention_out=project(block.attention_out),
            mlp_in=project(*block.mlp_in),
            mlp_out=project(block.mlp_out),
            heads=tensors.heads,
            is_gated=block.is_gated,
        )

    def __call__(self, states_NH: Tensor, inputs: StepInputs) -> Tensor:
        ops, parts = inputs.ops, self.parts
        normed = _normalise(parts.attention_norm, states_NH, ops)
        qkv = _project(parts.qkv, normed, inputs)
        attended = ops.attend(qkv, parts.heads, inputs.rotation, inputs.step, self._number)
        states_NH = _project_onto(states_NH, parts.attention_out, attended, inputs)
        mlp_input = normed if parts.mlp_norm is None else _normalise(parts.mlp_norm, states_NH, ops)
        mlp_inner = _project(parts.mlp_in, mlp_input, inputs)
        activated = ops.gated_silu(mlp_inner) if parts.is_gated else ops.gelu_tanh(mlp_inner)
        return _project_onto(states_NH, parts.mlp_out, activated, inputs)


class OwnModel:
    """A model of our own blocks. Implements ``forward_pass.Pass``."""

    def __init__(
        self,
        stored: StoredModel,
        make: Make,
        ops: Ops,
        context_tokens: int,
        *,
        dtype: torch.dtype,
        first_blocks: int | None = None,
    ) -> None:
        """Read a model's weights; with ``first_blocks`` only so many of its blocks stand under its head."""
        block, numbers, device = stored.block, stored.reference.numbers, stored.weights.device
        layers = numbers.layers if first_blocks is None else min(first_blocks, numbers.layers)
        tensors = _Tensors(stored, dtype)
        self._ops = ops
        self.kv_shape = KvShape(layers, numbers.kv_heads, numbers.head_dim, dtype, device)
        self._norm = tensors.norm(f"model.{block.final_norm}")
        self._cos_PE, self._sin_PE = _rotation(stored.reference, context_tokens, device)
        self._signed_sin_PE = self._sin_PE.clone()
        self._signed_sin_PE[:, : self._sin_PE.shape[1] // 2] *= -1

        @torch.inference_mode()  # which each thread has for itself
        def make_ends() -> tuple[AdaptedProjection, Callable[[Tensor], Tensor]]:
            return _make_ends(tensors, make, dtype, is_tied=numbers.is_tied)

        @torch.inference_mode()
        def make_block(number: int) -> DecoderBlock:
            return DecoderBlock(block, tensors, number, make)

        with serial_threads(min(torch.get_num_threads(), _MOST_READERS), "weights") as threads:
            ends = threads.submit(make_ends)  # first, as it takes longer than any block
            self._blocks = list(threads.map(make_block, range(layers)))
            self.head, self._embed = ends.result()
        self.projections: dict[str, AdaptedProjection] = {}
        for own in self._blocks:
            self.projections |= own.projections
        self.projections[_HEAD] = self.head
        self._joined = join([own.parts for own in self._blocks], self._cos_PE.shape[1], ops)

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        ops = TimedOps(self._ops, timer) if timer.is_on else self._ops
        angles = (self._cos_PE, self._sin_PE, self._signed_sin_PE)
        rotation = Rotation(*(values_PE[step.positions_N] for values_PE in angles))
        states_NH = self._run_blocks(self._embed(step.ids_N), StepInputs(step, rotation, lora.blocks, ops))
        if not step.is_wanted_whole:
            states_NH = states_NH[step.wanted_K]
        normed = _normalise(self._norm, states_NH, ops)
        logits_KV = ops.project(self.head, normed)
        ops.add_lora(self.head.group, normed, logits_KV, lora.head)
        return logits_KV

    def _run_blocks(self, states_NH: Tensor, inputs: StepInputs) -> Tensor:
        # a step that is taken apart is computed operation by operation
        joined = self._joined if inputs.ops is self._ops else None
        if joined is not None and joined(states_NH, inputs.rotation, inputs.step, inputs.lora):
            return states_NH
        for block in self._blocks:
            states_NH = block(states_NH, inputs)
        return states_NH


def _make_ends(
    tensors: "_Tensors", make: Make, dtype: torch.dtype, *, is_tied: bool
) -> tuple[AdaptedProjection, Callable[[Tensor], Tensor]]:
    """Make the head, and what looks up embeddings."""
    stored_VH = tensors.read_stored(EMBEDDING)
    head_weight_OI = stored_VH if is_tied else tensors.read_stored(f"{_HEAD}.weight")
    weights = LinearWeights(head_weight_OI, tensors.read_where_present(f"{_HEAD}.bias"), dtype)
    head = AdaptedProjection([_HEAD], [weights], make)
    find_rows = head.find_rows() if is_tied else None  # what both ends share is kept once
    return head, find_rows or (lambda ids_N: embedding(ids_N, stored_VH).to(dtype))


class _Tensors:
    """A stored model's tensors, in the type that it computes in, and what transformers says of them."""

    def __init__(self, stored: StoredModel, dtype: torch.dtype) -> None:
        self._stored, self._dtype = stored, dtype
        self._numbers = stored.reference.numbers
        self._names = self._numbers.all_shapes().keys()

    def read(self, name: str) -> Tensor:
        return self._stored.weights.read(name, self._dtype)

    def read_stored(self, name: str) -> Tensor:
        """Read a tensor in the type that it is stored in."""
        return self._stored.weights.read(name)

    def read_where_present(self, name: str) -> Tensor | None:
        """Read a tensor that only some models have; what a file has beyond its model's tensors is nobody's."""
        return self.read(name) if name in self._names else None

    def linear(self, name: str) -> LinearWeights:
        bias_O = self.read_where_present(f"{name}.bias")
        return LinearWeights(self.read_stored(f"{name}.weight"), bias_O, self._dtype)

    def norm(self, name: str) -> Norm:
        bias_H = None if self._stored.block.norm == "rms" else self.read(f"{name}.bias")
        return Norm(self.read(f"{name}.weight"), bias_H, self._numbers.norm_epsilon)

    @property
    def heads(self) -> Heads:
        numbers = self._numbers
        return Heads(numbers.heads, numbers.kv_heads, numbers.head_dim, numbers.attention_scale)


def _rotation(reference: Reference, context_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the cosines and sines of every position, float32 (P, E), the two halves of a row being the same."""
    positions_P1 = torch.arange(context_tokens, device=device)[:, None].float()
    angles_PE = (positions_P1 * reference.frequencies_E.to(device)).repeat(1, 2)
    scale = reference.numbers.rotation_scale
    return angles_PE.cos().mul_(scale), angles_PE.sin().mul_(scale)


def _normalise(norm: Norm, states_NH: Tensor, ops: Ops) -> Tensor:
    if norm.bias_H is None:
        return ops.rms_norm(states_NH, norm.weight_H, norm.epsilon)
    return ops.layer_norm(states_NH, norm.weight_H, norm.bias_H, norm.epsilon)


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
