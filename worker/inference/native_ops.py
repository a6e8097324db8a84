"""The operations of a decoder block in compiled code, where a step's rows are few; torch's for parts of prompts.

Compiled code spares what costs most with small models: the starts of many small operations. The kernels are
``native``'s.
"""

import torch
from torch import Tensor

from worker.inference.attention import attend_chunk
from worker.inference.lora import LoraGroup
from worker.inference.lora_plan import LoraPlan
from worker.inference.native.kernels import AttentionRows, Kernels, LoraRows, LoraSite
from worker.inference.ops import Heads, Rotation, TorchOps, split_heads
from worker.inference.step import Step


class NativeOps(TorchOps):
    """Implements ``ops.Ops`` on a CPU."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._sites: dict[LoraGroup, LoraSite] = {}
        self._planned: tuple[LoraPlan, LoraRows] | None = None
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
            tokens = slice(chunk.begin, chunk.end)
            query, key, value = split_heads(qkv_NO[tokens], heads, rotation.of(tokens))
            attended_NO[tokens] = attend_chunk(query, key, value, chunk, layer, heads.scale).flatten(1)
        return attended_NO

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        if not plan.touches(group.names):
            return
        for part in plan.parts:
            if part.is_shared:
                tokens = part.tokens
                self._kernels.lora(y_NO[tokens], x_NI[tokens], self._site(group), self._rows(plan))
            else:
                group.add_part(x_NI, y_NO, part)
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

    def _rows(self, plan: LoraPlan) -> LoraRows:
        if self._planned is None or self._planned[0] is not plan:
            self._planned = (plan, LoraRows(plan.begins, plan.ranks[None]))
        return self._planned[1]
