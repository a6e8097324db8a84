"""The native kernels as typed calls on tensors: what each computes, and what it takes for granted.

How they are built is not known here. N are the rows of a step, L the layers that share an input, here sections, R
columns of the LoRA bank.
"""

import ctypes
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from worker.inference.native.panels import Panels
from worker.inference.native.rows import AttentionRows, LoraRows, LoraSite

_POINTER, _NUMBER, _REAL, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: Final = {
    "rms_norm": (*[_POINTER] * 3, _REAL, _NUMBER, _NUMBER, _COUNT),
    "layer_norm": (*[_POINTER] * 4, _REAL, _NUMBER, _NUMBER, _COUNT),
    "gated_silu": (*[_POINTER] * 2, _NUMBER, _NUMBER, _COUNT),
    "gelu_tanh": (*[_POINTER] * 2, _NUMBER, _NUMBER, _COUNT),
    "decode_attention": (*[_POINTER] * 2, _NUMBER, *[_POINTER] * 3, *[_NUMBER] * 4, _REAL, _COUNT),
    "chunk_attention": (*[_POINTER] * 2, _NUMBER, *[_POINTER] * 4, *[_NUMBER] * 7, _REAL, _COUNT),
    "lora": (_POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _POINTER, _COUNT),
    "product": (*[_POINTER] * 3, _NUMBER, _POINTER, _COUNT),
    "blocks": (*[_POINTER] * 3, _COUNT),
}
_SUFFIXES: Final = {torch.bfloat16: "bf16", torch.float32: "f32"}

_Functions = dict[torch.dtype, Callable[..., None]]


class Kernels:
    """Each method is one call into the library, with as many threads as torch uses; tensors are on the CPU.

    All storage is bfloat16 or float32, and of one call the same. Outputs are contiguous and overwritten.

    Attributes:
        name: another for each source, compiler and level of CPU.
        multiplied: the types of rows of which there is a `product` at this level.
        panel_width: of the panels that it takes.
        blocks: of these types, all blocks of a model in one call; ``blocks.NativeBlocks`` makes it.
    """

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._rms_norm = _functions(library, "rms_norm")
        self._layer_norm = _functions(library, "layer_norm")
        self._gated_silu = _functions(library, "gated_silu")
        self._gelu_tanh = _functions(library, "gelu_tanh")
        self._decode_attention = _functions(library, "decode_attention")
        self._chunk_attention = _functions(library, "chunk_attention")
        self._lora = _functions(library, "lora")
        self.multiplied = frozenset(kind for kind, suffix in _SUFFIXES.items() if hasattr(library, f"product_{suffix}"))
        self._product = _functions(library, "product", self.multiplied)
        self.blocks = _functions(library, "blocks", self.multiplied)
        self.panel_width: int = library.panel_width() if self.multiplied else 0

    def rms_norm(self, out_NH: Tensor, x_NH: Tensor, weight_H: Tensor, eps: float) -> None:
        """Norm x as transformers' LlamaRMSNorm does."""
        rows, width = x_NH.shape
        assert weight_H.shape[0] == width
        assert _alike(out_NH, x_NH, weight_H)
        call, threads = self._rms_norm[x_NH.dtype], torch.get_num_threads()
        call(out_NH.data_ptr(), x_NH.data_ptr(), weight_H.data_ptr(), eps, rows, width, threads)

    def layer_norm(self, out_NH: Tensor, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, eps: float) -> None:
        """Norm x as torch's LayerNorm does."""
        rows, width = x_NH.shape
        assert weight_H.shape[0] == bias_H.shape[0] == width
        assert _alike(out_NH, x_NH, weight_H, bias_H)
        call, threads = self._layer_norm[x_NH.dtype], torch.get_num_threads()
        call(out_NH.data_ptr(), x_NH.data_ptr(), weight_H.data_ptr(), bias_H.data_ptr(), eps, rows, width, threads)

    def gated_silu(self, out_NI: Tensor, gate_up: Tensor) -> None:
        """Give silu(gate) * up of gate_up, whose rows are gate | up, I numbers each."""
        rows, width = out_NI.shape
        assert gate_up.shape == (rows, 2 * width)
        assert _alike(out_NI, gate_up)
        threads = torch.get_num_threads()
        self._gated_silu[gate_up.dtype](out_NI.data_ptr(), gate_up.data_ptr(), rows, width, threads)

    def gelu_tanh(self, out_NI: Tensor, x_NI: Tensor) -> None:
        """Give torch's gelu(approximate="tanh"); ``out_NI`` may be ``x_NI`` itself."""
        rows, width = x_NI.shape
        assert out_NI.shape == x_NI.shape
        assert _alike(out_NI, x_NI)
        self._gelu_tanh[x_NI.dtype](out_NI.data_ptr(), x_NI.data_ptr(), rows, width, torch.get_num_threads())

    def decode_attention(
        self, out: Tensor, qkv: Tensor, keys_SGDP: Tensor, values_SGPD: Tensor, rows: AttentionRows, scale: float
    ) -> None:
        """Rotate q and k, write k and v into the cache, and attend: one new token for each row.

        ``out`` is (N, A·D), ``qkv`` (N, (A + 2G)·D or more), each row q | k | v; its rows may lie apart.
        """
        sizes = _sizes_of(out, qkv, keys_SGDP, values_SGPD)
        assert len(out) == rows.count
        assert rows.rotary <= sizes.head_dim
        self._decode_attention[qkv.dtype](
            out.data_ptr(),
            qkv.data_ptr(),
            qkv.stride(0),
            keys_SGDP.data_ptr(),
            values_SGPD.data_ptr(),
            rows.pointer,
            *sizes,
            scale,
            torch.get_num_threads(),
        )

    def chunk_attention(
        self,
        out: Tensor,
        qkv: Tensor,
        keys_GDP: Tensor,
        values_GPD: Tensor,
        cos_NE: Tensor,
        sin_NE: Tensor,
        past: int,
        scale: float,
    ) -> None:
        """As `decode_attention`, for several tokens of one slot, in their order, behind the ``past`` that it has."""
        sizes, count, rotary = _sizes_of(out, qkv, keys_GDP, values_GPD), len(out), cos_NE.shape[1]
        assert len(cos_NE) == len(sin_NE) == count
        assert rotary <= sizes.head_dim
        assert rotary % 2 == 0
        assert past + count <= sizes.positions
        assert cos_NE.dtype == torch.float32
        assert _alike(cos_NE, sin_NE)
        self._chunk_attention[qkv.dtype](
            out.data_ptr(),
            qkv.data_ptr(),
            qkv.stride(0),
            keys_GDP.data_ptr(),
            values_GPD.data_ptr(),
            cos_NE.data_ptr(),
            sin_NE.data_ptr(),
            rotary,
            count,
            past,
            *sizes,
            scale,
            torch.get_num_threads(),
        )

    def lora(self, y: Tensor, x_NI: Tensor, site: LoraSite, rows: LoraRows) -> None:
        """Add to each row of y, in place, its adapter's delta: (x·Aᵀ)·B of its columns of the bank.

        y is (N, outputs of all sections or more); its rows may lie apart, as those of ``x_NI`` may.
        """
        (count, inputs), (y_count, outputs) = x_NI.shape, y.shape
        assert count == y_count == rows.count
        assert inputs == site.inputs
        assert outputs >= site.outputs
        assert x_NI.dtype == y.dtype == site.dtype
        y_stride, x_stride = y.stride(), x_NI.stride()
        assert y_stride[1] == x_stride[1] == 1
        assert rows.sections in (1, site.sections)
        call, threads = self._lora[site.dtype], torch.get_num_threads()
        call(y.data_ptr(), y_stride[0], x_NI.data_ptr(), x_stride[0], site.pointer, rows.pointer, threads)

    def product(self, out_NO: Tensor, x_NI: Tensor, panels: Panels, added_NO: Tensor | None = None) -> None:
        """Give x·Wᵀ + b, summed in float32, with ``added_NO`` added before it is rounded to the rows' type.

        A row's result is the same bit by bit whatever rows are beside it.
        """
        rows, inputs = x_NI.shape
        assert x_NI.dtype == panels.dtype
        assert inputs == panels.inputs
        assert out_NO.shape == (rows, panels.outputs)
        assert added_NO is None or (added_NO.shape == out_NO.shape and added_NO.data_ptr() != out_NO.data_ptr())
        assert _alike(out_NO, x_NI, added_NO)
        added = None if added_NO is None else added_NO.data_ptr()
        call, threads = self._product[panels.dtype], torch.get_num_threads()
        call(out_NO.data_ptr(), x_NI.data_ptr(), added, rows, panels.pointer, threads)


class _Sizes(NamedTuple):
    """In the order in which both kernels of attention take them."""

    query_heads: int
    kv_heads: int
    head_dim: int
    positions: int


def _sizes_of(out: Tensor, qkv: Tensor, keys_GDP: Tensor, values_GPD: Tensor) -> _Sizes:
    """Read the sizes of one attention, of one slot or of all of an arena."""
    kv_heads, head_dim, positions = keys_GDP.shape[-3:]
    count, query_numbers = out.shape
    query_heads = query_numbers // head_dim
    assert len(qkv) == count
    assert query_heads % kv_heads == 0
    assert qkv.shape[1] >= query_numbers + 2 * kv_heads * head_dim
    assert qkv.stride(1) == 1
    assert values_GPD.shape[-2] == positions
    assert _alike(keys_GDP, values_GPD, out)
    assert keys_GDP.dtype == qkv.dtype
    return _Sizes(query_heads, kv_heads, head_dim, positions)


def _functions(library: ctypes.CDLL, name: str, dtypes: Iterable[torch.dtype] = tuple(_SUFFIXES)) -> _Functions:
    functions: _Functions = {}
    for dtype in dtypes:
        function = getattr(library, f"{name}_{_SUFFIXES[dtype]}")
        function.argtypes, function.restype = _SIGNATURES[name], None
        functions[dtype] = function
    return functions


def _alike(first: Tensor, *others: Tensor | None) -> bool:
    """Tell whether all that are there are contiguous and of one dtype."""
    dtype = first.dtype
    return first.is_contiguous() and all(
        other is None or (other.dtype == dtype and other.is_contiguous()) for other in others
    )
