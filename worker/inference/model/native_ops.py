"""The operations of a decoder block in compiled code.

Compiled code spares what costs most with small models: the starts of many small operations. The kernels are
``native``'s.
"""

from functools import partial
from typing import Annotated, Final

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan, LoraSegment
from worker.inference.model.block_parts import Heads
from worker.inference.model.ops import Rotation, TorchOps
from worker.inference.model.step_layout import Step
from worker.inference.native.kernels import Kernels
from worker.inference.native.rows import AttentionRows, LoraRows, LoraSite
from worker.inference.tuning.autotuner import Trial
from worker.inference.tuning.trial_timer import TrialTimer

# What is tried to find where torch's products become the faster ones, and within what that can be.
_TRIED_TOKENS: Final = (64, 256)
_TRIED_WIDTH, _TRIED_RANK = 1024, 16
_LEAST, _MOST = 10**6, 10**8
UNTRIED_CROSSOVER: Final = 2 * 10**7  # where nothing better is known of a machine


class NativeOps(TorchOps):
    """Implements ``ops.Ops`` on a CPU.

    Attributes:
        crossover: a part of a prompt is left to torch's products where it takes more multiply-adds for a layer.
    """

    def __init__(self, kernels: Kernels, crossover: int = UNTRIED_CROSSOVER) -> None:
        self.kernels = kernels
        self.crossover = crossover
        self._sites: dict[LoraGroup, LoraSite] = {}
        self._planned: tuple[LoraPlan, tuple[LoraRows, ...]] | None = None
        self._stepped: tuple[Step, tuple[AttentionRows, ...]] | None = None

    def rms_norm(self, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        normed_NH = torch.empty_like(x_NH)
        self.kernels.rms_norm(normed_NH, x_NH, weight_H, epsilon)
        return normed_NH

    def layer_norm(self, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
        normed_NH = torch.empty_like(x_NH)
        self.kernels.layer_norm(normed_NH, x_NH, weight_H, bias_H, epsilon)
        return normed_NH

    def gated_silu(self, gate_up_NI: Tensor) -> Tensor:
        gated_NI = gate_up_NI.new_empty(len(gate_up_NI), gate_up_NI.shape[1] // 2)
        self.kernels.gated_silu(gated_NI, gate_up_NI)
        return gated_NI

    def gelu_tanh(self, x_NI: Tensor) -> Tensor:
        self.kernels.gelu_tanh(x_NI, x_NI)
        return x_NI

    def attend(self, qkv_NO: Tensor, heads: Heads, rotation: Rotation, step: Step, layer: int) -> Tensor:
        attended_NO = qkv_NO.new_empty(len(qkv_NO), heads.heads * heads.head_dim)
        for rows, prepared in zip(step.decode, self.attention_rows(step, rotation), strict=True):
            keys, values = rows.arena.keys[layer], rows.arena.values[layer]
            tokens = slice(rows.begin, rows.end)
            self.kernels.decode_attention(attended_NO[tokens], qkv_NO[tokens], keys, values, prepared, heads.scale)
        for chunk in step.chunks:
            keys, values = (kind[layer][chunk.slot.place] for kind in (chunk.slot.arena.keys, chunk.slot.arena.values))
            tokens = slice(chunk.begin, chunk.end)
            angles = rotation.of(tokens)
            self.kernels.chunk_attention(
                attended_NO[tokens], qkv_NO[tokens], keys, values, angles.cos_NE, angles.sin_NE, chunk.past, heads.scale
            )
        return attended_NO

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        if not plan.touches(group.names):
            return
        for segment, rows in zip(plan.segments, self.lora_rows(plan), strict=True):
            if self.is_left_to_torch(segment, group.numbers_per_column / len(group.names)):
                group.add_segment(x_NI, y_NO, segment)
            else:
                is_whole = rows.count == len(x_NI)  # two slices take as long as the call
                y, x = (y_NO, x_NI) if is_whole else (y_NO[segment.tokens], x_NI[segment.tokens])
                self.kernels.lora(y, x, self.site_of(group), rows)
        group.apply_dora_magnitude(y_NO, plan)

    def is_left_to_torch(self, segment: LoraSegment, numbers_per_column: float) -> bool:
        """Tell whether torch's products are faster for a segment's rows, and factors of so many numbers a layer."""
        rows, columns = (part.stop - part.start for part in (segment.tokens, segment.columns))
        return not segment.is_shared and rows * columns * numbers_per_column > self.crossover

    def site_of(self, group: LoraGroup) -> LoraSite:
        """Give where a group's factors are; an adapter that changes one of its layers is in the bank."""
        site = self._sites.get(group)
        if site is None:
            assert group.a_LRI is not None, "an adapter that is ready has its factors in the bank"
            site = self._sites[group] = LoraSite(group.a_LRI, group.b_RO, group.offsets[:-1])
        return site

    def attention_rows(self, step: Step, rotation: Rotation) -> tuple[AttentionRows, ...]:
        """Give what the kernel needs for each round of decoding rows."""
        if self._stepped is None or self._stepped[0] is not step:
            prepared = []
            for rows in step.decode:
                angles = rotation.of(slice(rows.begin, rows.end))
                prepared.append(AttentionRows(angles.cos_NE, angles.sin_NE, rows.cpu_slots_B, rows.cpu_lengths_B))
            self._stepped = (step, tuple(prepared))
        return self._stepped[1]

    def lora_rows(self, plan: LoraPlan) -> tuple[LoraRows, ...]:
        """Give what the kernel needs for each segment."""
        if self._planned is None or self._planned[0] is not plan:
            self._planned = (plan, tuple(_prepare(segment, plan) for segment in plan.segments))
        return self._planned[1]


def _prepare(segment: LoraSegment, plan: LoraPlan) -> LoraRows:
    if segment.is_shared:
        return LoraRows(plan.begins, plan.ranks[None])
    count = segment.tokens.stop - segment.tokens.start
    begin, rank = segment.columns.start, segment.columns.stop - segment.columns.start
    return LoraRows(torch.full((count,), begin, dtype=torch.int32), torch.full((1, count), rank, dtype=torch.int32))


def crossover_trial(ops: NativeOps, dtype: torch.dtype) -> Trial[int]:
    """Make the trial that finds where torch's products become the faster ones."""

    def use(crossover: int) -> None:
        ops.crossover = crossover

    kind: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=_LEAST, le=_MOST)])
    find = partial(find_crossover, ops.kernels, dtype)
    return Trial("adapters by torch's products from multiply-adds for a layer", kind, UNTRIED_CROSSOVER, find, use)


@torch.inference_mode()
def find_crossover(kernels: Kernels, dtype: torch.dtype, timer: TrialTimer) -> int:
    """Give the multiply-adds for one layer from which torch's two products are faster than the kernel, on this machine.

    Products take a while to start, and then do more at a time: how long both take for two lengths says from where on
    that pays. A few milliseconds.
    """
    group = LoraGroup(["tried"], _TRIED_WIDTH, [_TRIED_WIDTH])
    a_RI, b_RO = torch.ones(_TRIED_RANK, _TRIED_WIDTH, dtype=dtype), torch.ones(_TRIED_RANK, _TRIED_WIDTH, dtype=dtype)
    site = LoraSite(a_RI[None], [b_RO], [0])
    group.a_LRI, group.b_RO = a_RI[None], (b_RO,)
    kernel_s, products_s = [], []
    for tokens in _TRIED_TOKENS:
        x_NI, y_NO = torch.ones(tokens, _TRIED_WIDTH, dtype=dtype), torch.ones(tokens, _TRIED_WIDTH, dtype=dtype)
        segment = LoraSegment(slice(0, tokens), slice(0, _TRIED_RANK), None, is_shared=False)
        begins, ranks = torch.zeros(tokens, dtype=torch.int32), torch.full((1, tokens), _TRIED_RANK, dtype=torch.int32)
        rows = LoraRows(begins, ranks)
        kernel_s.append(timer.fastest_s(partial(kernels.lora, y_NO, x_NI, site, rows)))
        products_s.append(timer.fastest_s(partial(group.add_segment, x_NI, y_NO, segment)))
    few, many = (tokens * _TRIED_RANK * group.numbers_per_column for tokens in _TRIED_TOKENS)
    s_per_multiply = max(0.0, (products_s[1] - products_s[0]) / (many - few))
    start_s, saved_s = products_s[0] - s_per_multiply * few, kernel_s[1] / many - s_per_multiply
    return _MOST if saved_s <= 0 else int(min(max(start_s / saved_s, _LEAST), _MOST))
