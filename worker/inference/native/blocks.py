"""All decoder blocks of a model as one typed call: what it reads of the model, and of each step.

The layouts are those of blocks.hpp. A block's operations are those of `kernels.Kernels`, one after the other; what is
spared is the way into and out of each. Axis letters are those of ``kernels``; H is the width of the states.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.inference.native.kernels import Kernels
from worker.inference.native.panels import Panels
from worker.inference.native.rows import AttentionRows, LoraRows, LoraSite

PARTS: Final = 4  # products of a block: q, k and v; attention's output; into the MLP; out of it

_POINTER, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("bias", _POINTER))


class _Block(ctypes.Structure):
    _fields_ = (("attention_norm", _Norm), ("mlp_norm", _Norm), ("panels", _POINTER * PARTS))


class _Model(ctypes.Structure):
    _fields_ = (
        ("blocks", _POINTER),
        *((name, _NUMBER) for name in ("count", "width", "query_heads", "kv_heads", "head_dim", "rotary")),
        ("scale", _REAL),
        ("epsilon", _REAL),
        ("is_gated", ctypes.c_int32),
    )


class _Cache(ctypes.Structure):
    _fields_ = (("keys", _POINTER), ("values", _POINTER), ("positions", _NUMBER))


class _DecodeRound(ctypes.Structure):
    _fields_ = (("cache", _Cache), ("rows", _POINTER), ("begin", _NUMBER))


class _PromptChunk(ctypes.Structure):
    _fields_ = (
        ("cache", _Cache),
        ("cos", _POINTER),
        ("sin", _POINTER),
        *((name, _NUMBER) for name in ("place", "begin", "count", "past")),
    )


class _LoraSegment(ctypes.Structure):
    _fields_ = (("rows", _POINTER), ("begin", _NUMBER))


class _Step(ctypes.Structure):
    _fields_ = (
        ("rows", _NUMBER),
        ("decode", _POINTER),
        ("decode_count", _NUMBER),
        ("chunks", _POINTER),
        ("chunk_count", _NUMBER),
        ("segments", _POINTER),
        ("segment_count", _NUMBER),
        ("sites", _POINTER),
    )


@dataclass(frozen=True)
class NormWeights:
    """A norm's weights; without a bias it divides by the root of the mean square."""

    weight_H: Tensor
    bias_H: Tensor | None


@dataclass(frozen=True)
class BlockWeights:
    """A block's weights; without a norm of its own the MLP reads what attention does.

    Attributes:
        panels: of its four products, in their order.
    """

    attention_norm: NormWeights
    mlp_norm: NormWeights | None
    panels: tuple[Panels, Panels, Panels, Panels]


@dataclass(frozen=True)
class BlockSizes:
    """What all blocks of a model have in common: A query and G key-value heads of D numbers, E of them rotated."""

    query_heads: int
    kv_heads: int
    head_dim: int
    rotary: int
    scale: float
    epsilon: float
    is_gated: bool


class CacheTensors:
    """Where all blocks' keys_SGDP and values_SGPD of one arena are; to be made anew when the tensors are."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        for kind in (keys, values):
            assert all(tensor.is_contiguous() and tensor.dtype == keys[0].dtype for tensor in kind)
        self.dtype, self.layers = keys[0].dtype, len(keys)
        self._tensors = (tuple(keys), tuple(values))
        self._pointers = tuple(
            (_POINTER * len(kind))(*(tensor.data_ptr() for tensor in kind)) for kind in (keys, values)
        )
        self.positions: int = keys[0].shape[3]
        self.struct = _Cache(*(ctypes.addressof(of) for of in self._pointers), self.positions)


@dataclass(frozen=True)
class DecodeRound:
    """Rows of one new token each, from row ``begin`` of the step on."""

    cache: CacheTensors
    rows: AttentionRows
    begin: int


@dataclass(frozen=True)
class PromptChunk:
    """Tokens of one slot behind the ``past`` that it has, from row ``begin`` of the step on; rotated by cos and sin."""

    cache: CacheTensors
    cos_NE: Tensor
    sin_NE: Tensor
    place: int
    begin: int
    past: int


class Sites:
    """The factors that a step's adapters change, for each product of each block; None where they change nothing."""

    def __init__(self, sites: Sequence[LoraSite | None]) -> None:
        self.sites = tuple(sites)
        self._pointers = (_POINTER * len(sites))(*(None if site is None else site.pointer for site in sites))
        self.pointer = ctypes.addressof(self._pointers)


@dataclass(frozen=True)
class Lora:
    """What adapters add: segments of rows, each from a row of the step on, and the factors that they use."""

    segments: Sequence[tuple[int, LoraRows]]
    sites: Sites


class NativeBlocks:
    """The blocks of one model; tensors are on the CPU and of the type that it computes in."""

    def __init__(self, kernels: Kernels, blocks: Sequence[BlockWeights], sizes: BlockSizes) -> None:
        first = blocks[0]
        self._dtype = first.attention_norm.weight_H.dtype
        self._width = len(first.attention_norm.weight_H)
        assert self._dtype in kernels.multiplied
        for block in blocks:
            self._check(block, first, sizes)
        self._weights, self._sizes = tuple(blocks), sizes
        self._blocks = (_Block * len(blocks))(*(_block(block) for block in blocks))
        self._model = _Model(
            ctypes.addressof(self._blocks),
            len(blocks),
            self._width,
            sizes.query_heads,
            sizes.kv_heads,
            sizes.head_dim,
            sizes.rotary,
            sizes.scale,
            sizes.epsilon,
            sizes.is_gated,
        )
        self._call = kernels.blocks[self._dtype]

    def __call__(
        self, states_NH: Tensor, decode: Sequence[DecodeRound], chunks: Sequence[PromptChunk], lora: Lora | None
    ) -> None:
        """Take the states through all blocks, in place; new keys and values go into the caches.

        ``decode`` and ``chunks`` cover the rows.
        """
        rows = len(states_NH)
        assert states_NH.shape[1] == self._width
        assert states_NH.dtype == self._dtype
        assert states_NH.is_contiguous()
        assert rows == sum(one.rows.count for one in decode) + sum(len(chunk.cos_NE) for chunk in chunks)
        all_decode = (_DecodeRound * len(decode))(*(self._decode(one) for one in decode))
        all_chunks = (_PromptChunk * len(chunks))(*(self._chunk(chunk) for chunk in chunks))
        segments = () if lora is None else lora.segments
        all_segments = (_LoraSegment * len(segments))(*(_LoraSegment(of.pointer, begin) for begin, of in segments))
        if lora is not None:
            self._check_lora(lora, rows)
        step = _Step(
            rows,
            ctypes.addressof(all_decode),
            len(decode),
            ctypes.addressof(all_chunks),
            len(chunks),
            ctypes.addressof(all_segments),
            len(segments),
            None if lora is None else lora.sites.pointer,
        )
        self._call(states_NH.data_ptr(), ctypes.addressof(self._model), ctypes.addressof(step), torch.get_num_threads())

    def _decode(self, one: DecodeRound) -> _DecodeRound:
        self._check_cache(one.cache)
        assert one.rows.rotary == self._sizes.rotary
        return _DecodeRound(one.cache.struct, one.rows.pointer, one.begin)

    def _chunk(self, chunk: PromptChunk) -> _PromptChunk:
        self._check_cache(chunk.cache)
        count, rotary = chunk.cos_NE.shape
        assert rotary == self._sizes.rotary
        assert chunk.past + count <= chunk.cache.positions
        for angles_NE in (chunk.cos_NE, chunk.sin_NE):
            assert angles_NE.shape == (count, rotary)
            assert angles_NE.dtype == torch.float32
            assert angles_NE.is_contiguous()
        cos, sin = chunk.cos_NE.data_ptr(), chunk.sin_NE.data_ptr()
        return _PromptChunk(chunk.cache.struct, cos, sin, chunk.place, chunk.begin, count, chunk.past)

    def _check_cache(self, cache: CacheTensors) -> None:
        assert cache.dtype == self._dtype
        assert cache.layers == len(self._weights)

    def _check_lora(self, lora: Lora, rows: int) -> None:
        assert len(lora.sites.sites) == PARTS * len(self._weights)
        assert all(begin + of.count <= rows for begin, of in lora.segments)
        assert all(of.sections == 1 for _, of in lora.segments)

    def _check(self, block: BlockWeights, first: BlockWeights, sizes: BlockSizes) -> None:
        heads = sizes.query_heads + 2 * sizes.kv_heads
        inner = first.panels[3].inputs
        shapes = (
            (heads * sizes.head_dim, self._width),
            (self._width, sizes.query_heads * sizes.head_dim),
            (2 * inner if sizes.is_gated else inner, self._width),
            (self._width, inner),
        )
        assert tuple((panels.outputs, panels.inputs) for panels in block.panels) == shapes
        assert all(panels.dtype == self._dtype for panels in block.panels)
        for norm in (block.attention_norm, block.mlp_norm):
            for numbers in () if norm is None else (norm.weight_H, norm.bias_H):
                assert numbers is None or (numbers.dtype == self._dtype and numbers.shape == (self._width,))
                assert numbers is None or numbers.is_contiguous()


def _block(block: BlockWeights) -> _Block:
    pointers = (_POINTER * PARTS)(*(panels.pointer for panels in block.panels))
    return _Block(_norm(block.attention_norm), _norm(block.mlp_norm), pointers)


def _norm(norm: NormWeights | None) -> _Norm:
    if norm is None:
        return _Norm(None, None)
    return _Norm(norm.weight_H.data_ptr(), None if norm.bias_H is None else norm.bias_H.data_ptr())
