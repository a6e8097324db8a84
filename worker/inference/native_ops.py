"""The operations of a decoder block in compiled code.

Compiled code spares what costs most with small models: the starts of many small operations. The kernels are
``native``'s.
"""

from typing import Final

import torch
from torch import Tensor

from worker.inference.lora import LoraGroup
from worker.inference.lora_plan import Columns, LoraPlan
from worker.inference.native.kernels import AttentionRows, Kernels, LoraRows, LoraSite
from worker.inference.ops import Heads, Rotation, TorchOps
from worker.inference.step import Step

# Of a part of a prompt. The kernel goes token by token and so reads nothing twice; from about so many tokens on torch's
# products, which are bound by arithmetic, are as fast (measured on two Zen 4 cores at widths of 576).
MOST_TOKENS: Final = 64


class NativeOps(TorchOps):
    """Implements ``ops.Ops`` on a CPU."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._sites: dict[LoraGroup, LoraSite] = {}
        self._planned: tuple[LoraPlan, tuple[LoraRows | None, ...]] | None = None
        self._stepped: tuple[Step, tuple[AttentionRows, ...]] | None = None

    def rms_norm(self, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        normed_NH = torch.empty_like(x_NH)
        self._kernels.rms_norm(normed_NH, x_NH, weight_H, epsilon)
        return normed_NH

    def layer_norm(self, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
        normed_NH = torch.empty_like(x_NH)
        self._kernels.layer_norm(normed_NH, x_NH, weight_H, bias_H, epsilon)
        return normed_NH

    def gated_silu(self, gate_up_NI: Tensor) -> Tensor:
        gated_NI = gate_up_NI.new_empty(len(gate_up_NI), gate_up_NI.shape[1] // 2)
        self._kernels.gated_silu(gated_NI, gate_up_NI)
        return gated_NI

    def gelu_tanh(self, x_NI: Tensor) -> Tensor:
        self._kernels.gelu_tanh(x_NI, x_NI)
        return x_NI

    def attend(self, qkv_NO: Tensor, heads: Heads, rotation: Rotation, step: Step, layer: int) -> Tensor:
        attended_NO = qkv_NO.new_empty(len(qkv_NO), heads.heads * heads.head_dim)
        for rows, prepared in zip(step.decode, self._attention_rows(step, rotation), strict=True):
            keys, values = rows.arena.keys[layer], rows.arena.values[layer]
            tokens = slice(rows.begin, rows.end)
            self._kernels.decode_attention(attended_NO[tokens], qkv_NO[tokens], keys, values, prepared, heads.scale)
        for chunk in step.chunks:
            keys, values = (kind[layer][chunk.slot.place] for kind in (chunk.slot.arena.keys, chunk.slot.arena.values))
            tokens = slice(chunk.begin, chunk.end)
            turn = rotation.of(tokens)
            self._kernels.chunk_attention(
                attended_NO[tokens], qkv_NO[tokens], keys, values, turn.cos_NR, turn.sin_NR, chunk.past, heads.scale
            )
        return attended_NO

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        if not plan.touches(group.names):
            return
        for part, rows in zip(plan.parts, self._lora_rows(plan), strict=True):
            if rows is None:
                group.add_part(x_NI, y_NO, part)
            else:
                self._kernels.lora(y_NO[part.tokens], x_NI[part.tokens], self._site(group), rows)
        group.stretch(y_NO, plan)

    def _site(self, group: LoraGroup) -> LoraSite:
        site = self._sites.get(group)
        if site is None:
            assert group.a_SRI is not None, "an adapter that is ready has its factors in the bank"
            site = self._sites[group] = LoraSite(group.a_SRI, group.b_RO, group.offsets[:-1])
        return site

    def _attention_rows(self, step: Step, rotation: Rotation) -> tuple[AttentionRows, ...]:
        if self._stepped is None or self._stepped[0] is not step:
            made = []
            for rows in step.decode:
                turn = rotation.of(slice(rows.begin, rows.end))
                made.append(AttentionRows(turn.cos_NR, turn.sin_NR, rows.slots_B, rows.lengths_B))
            self._stepped = (step, tuple(made))
        return self._stepped[1]

    def _lora_rows(self, plan: LoraPlan) -> tuple[LoraRows | None, ...]:
        """Give what the kernel needs for each part; None for one that is left to torch."""
        if self._planned is None or self._planned[0] is not plan:
            self._planned = (plan, tuple(_prepare(part, plan) for part in plan.parts))
        return self._planned[1]


def _prepare(part: Columns, plan: LoraPlan) -> LoraRows | None:
    if part.is_shared:
        return LoraRows(plan.begins, plan.ranks[None])
    count = part.tokens.stop - part.tokens.start
    if count > MOST_TOKENS:
        return None
    begin, rank = part.columns.start, part.columns.stop - part.columns.start
    return LoraRows(torch.full((count,), begin, dtype=torch.int32), torch.full((1, count), rank, dtype=torch.int32))
