"""All decoder blocks of a step as one call into compiled code, where every product of theirs is compiled.

With small models most of a step would go into and out of some hundred calls. What is computed is the same, bit by bit,
as block by block; which is how a step goes that this cannot take.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from worker.inference.kv_cache.slots import Arena
from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.block_parts import BlockParts, Norm
from worker.inference.model.native_ops import NativeOps
from worker.inference.model.ops import Ops, Rotation
from worker.inference.model.step_layout import Step
from worker.inference.native.blocks import (
    BlockSizes,
    BlockWeights,
    CacheTensors,
    DecodeRound,
    Lora,
    NativeBlocks,
    NormWeights,
    PromptChunk,
    Sites,
)
from worker.inference.native.panels import Panels


class JoinedBlocks:
    """The blocks of one model, with the ``ops`` that would compute them one by one."""

    def __init__(self, blocks: NativeBlocks, groups: Sequence[LoraGroup], ops: NativeOps) -> None:
        self._blocks, self._groups, self._ops = blocks, tuple(groups), ops
        self._most_numbers = max(group.numbers_per_column / len(group.names) for group in groups)
        self._caches: WeakKeyDictionary[Arena, tuple[int, CacheTensors]] = WeakKeyDictionary()
        self._sites: tuple[frozenset[str], Sites] | None = None

    def __call__(self, states_NH: Tensor, rotation: Rotation, step: Step, lora: LoraPlan) -> bool:
        """Take the states through all blocks, in place; False: this cannot take the step, and nothing was changed.

        That is one with an adapter of DoRA's, or with so long a part of a prompt that torch's products are faster.
        """
        if lora.dora or any(self._ops.is_left_to_torch(segment, self._most_numbers) for segment in lora.segments):
            return False
        rows = zip(step.decode, self._ops.attention_rows(step, rotation), strict=True)
        decode = [DecodeRound(self._cache(round_.arena), prepared, round_.begin) for round_, prepared in rows]
        chunks = []
        for chunk in step.chunks:
            angles = rotation.of(slice(chunk.begin, chunk.end))
            cache = self._cache(chunk.slot.arena)
            chunks.append(PromptChunk(cache, angles.cos_NE, angles.sin_NE, chunk.slot.place, chunk.begin, chunk.past))
        self._blocks(states_NH, decode, chunks, self._lora(lora))
        return True

    def _cache(self, arena: Arena) -> CacheTensors:
        known = self._caches.get(arena)
        if known is None or known[0] != arena.version:
            known = self._caches[arena] = (arena.version, CacheTensors(arena.keys, arena.values))
        return known[1]

    def _lora(self, plan: LoraPlan) -> Lora | None:
        if not plan.segments:
            return None
        if self._sites is None or self._sites[0] != plan.layers:
            sites = [self._ops.site_of(group) if plan.touches(group.names) else None for group in self._groups]
            self._sites = (plan.layers, Sites(sites))
        begins = (segment.tokens.start for segment in plan.segments)
        return Lora(list(zip(begins, self._ops.lora_rows(plan), strict=True)), self._sites[1])


def join(blocks: Sequence[BlockParts], rotary: int, ops: Ops) -> JoinedBlocks | None:
    """Join the blocks of one model, E = ``rotary`` numbers of a head being rotated; None: not all is compiled."""
    if not isinstance(ops, NativeOps):
        return None
    weights = []
    for block in blocks:
        panels = _panels_of(block)
        if panels is None:
            return None
        mlp_norm = None if block.mlp_norm is None else _weights(block.mlp_norm)
        weights.append(BlockWeights(_weights(block.attention_norm), mlp_norm, panels))
    first, heads = blocks[0], blocks[0].heads
    sizes = BlockSizes(
        heads.heads, heads.kv_heads, heads.head_dim, rotary, heads.scale, first.attention_norm.epsilon, first.is_gated
    )
    groups = [projection.group for block in blocks for projection in block.projections]
    return JoinedBlocks(NativeBlocks(ops.kernels, weights, sizes), groups, ops)


def _panels_of(block: BlockParts) -> tuple[Panels, Panels, Panels, Panels] | None:
    qkv, attention_out, mlp_in, mlp_out = (projection.panels for projection in block.projections)
    if qkv is None or attention_out is None or mlp_in is None or mlp_out is None:
        return None
    return qkv, attention_out, mlp_in, mlp_out


def _weights(norm: Norm) -> NormWeights:
    return NormWeights(norm.weight_H, norm.bias_H)
