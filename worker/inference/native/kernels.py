"""The native kernels as typed calls on tensors: what each computes, and what it takes for granted.

How they are built is not known here. Axis letters: N rows, W a layer's width, I inputs, O outputs, S sections (layers
that share an input), R columns of the LoRA bank or rotated numbers of a head, H query heads, G key-value heads, D a
head's width, P slots, L places of a slot.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from worker.inference.native.panels import Panels

MOST_SECTIONS: Final = 8  # as in lora_site.hpp

_POINTER, _NUMBER, _REAL, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: Final = {
    "rms_norm": (*[_POINTER] * 3, _REAL, _NUMBER, _NUMBER, _COUNT),
    "layer_norm": (*[_POINTER] * 4, _REAL, _NUMBER, _NUMBER, _COUNT),
    "gated_silu": (*[_POINTER] * 2, _NUMBER, _NUMBER, _COUNT),
    "gelu_tanh": (*[_POINTER] * 2, _NUMBER, _NUMBER, _COUNT),
    "decode_attention": (*[_POINTER] * 2, _NUMBER, *[_POINTER] * 3, *[_NUMBER] * 4, _REAL, _COUNT),
    "chunk_attention": (*[_POINTER] * 2, _NUMBER, *[_POINTER] * 4, *[_NUMBER] * 7, _REAL, _COUNT),
    "lora": (_POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _POINTER, _COUNT),
}
_PRODUCT_SIGNATURE: Final[tuple[Any, ...]] = (*[_POINTER] * 3, _NUMBER, _POINTER, _COUNT)
_SUFFIXES: Final = {torch.bfloat16: "bf16", torch.float32: "f32"}

_Functions = dict[torch.dtype, Callable[..., None]]


class _LoraSite(ctypes.Structure):
    """As LoraSite in lora_site.hpp."""

    _fields_ = (
        ("a", _POINTER),
        ("sections", _NUMBER),
        ("columns", _NUMBER),
        ("inputs", _NUMBER),
        ("b", _POINTER * MOST_SECTIONS),
        ("offsets", _NUMBER * MOST_SECTIONS),
        ("widths", _NUMBER * MOST_SECTIONS),
    )


class LoraSite:
    """The LoRA bank's factors of layers that share an input, as `Kernels.lora` reads them; built once, not per call.

    It keeps the tensors alive, and stands for their memory: what is written into them later counts.
    """

    def __init__(self, a_SRI: Tensor, b_RO: Sequence[Tensor], offsets: Sequence[int]) -> None:
        """Section s adds to the outputs from offsets[s] on; its B, transposed, is b_RO[s], as wide as its outputs."""
        sections, columns, inputs = a_SRI.shape
        assert sections == len(b_RO) == len(offsets) <= MOST_SECTIONS
        assert a_SRI.is_contiguous()
        assert a_SRI.device.type == "cpu"
        for b in b_RO:
            assert b.is_contiguous()
            assert b.dtype == a_SRI.dtype
            assert b.shape[0] == columns
        widths = [b.shape[1] for b in b_RO]
        self.dtype = a_SRI.dtype
        self.sections = sections
        self.inputs = inputs
        self.outputs = max(offset + width for offset, width in zip(offsets, widths, strict=True))
        self._tensors = (a_SRI, *b_RO)
        self._site = _LoraSite(a_SRI.data_ptr(), sections, columns, inputs)
        for section, b in enumerate(b_RO):
            self._site.b[section] = b.data_ptr()
            self._site.offsets[section] = offsets[section]
            self._site.widths[section] = widths[section]
        self.pointer = ctypes.addressof(self._site)


class _AttentionRows(ctypes.Structure):
    """As AttentionRows in attention.hpp."""

    _fields_ = (
        ("cos", _POINTER),
        ("sin", _POINTER),
        ("slots", _POINTER),
        ("lengths", _POINTER),
        ("count", _NUMBER),
        ("rotary", _NUMBER),
    )


class AttentionRows:
    """Where each row of a step has its keys and values, and how it is rotated; built once a step for all layers."""

    def __init__(self, cos_NR: Tensor, sin_NR: Tensor, slots_N: Tensor, lengths_N: Tensor) -> None:
        """Rotate the first R numbers of each head, halves against each other as in GPT-NeoX, by float32 cos and sin.

        ``slots_N``, int32, are all different; ``lengths_N``, int32, are the tokens in each before this one, below L.
        """
        count, rotary = cos_NR.shape
        assert sin_NR.shape == (count, rotary)
        assert rotary % 2 == 0
        assert slots_N.shape == lengths_N.shape == (count,)
        assert cos_NR.dtype == sin_NR.dtype == torch.float32
        assert slots_N.dtype == lengths_N.dtype == torch.int32
        self._tensors = (cos_NR, sin_NR, slots_N, lengths_N)
        assert all(tensor.is_contiguous() for tensor in self._tensors)
        self.count = count
        self.rotary = rotary
        self._rows = _AttentionRows(*(tensor.data_ptr() for tensor in self._tensors), count, rotary)
        self.pointer = ctypes.addressof(self._rows)


class _LoraRows(ctypes.Structure):
    """As LoraRows in lora_site.hpp."""

    _fields_ = (("begins", _POINTER), ("ranks", _POINTER), ("ranks_stride", _NUMBER), ("count", _NUMBER))


class LoraRows:
    """Which columns of the bank each row of a step uses; built once a step for all layers, as far as they agree."""

    def __init__(self, begins_N: Tensor, ranks_SN: Tensor) -> None:
        """Row n uses, in section s, ranks_SN[s, n] columns from begins_N[n] on; of rank 0 it stays as it is.

        Both are int32. Rows that begin at one column share one read of the factors. S is 1 where all sections agree.
        """
        (count,) = begins_N.shape
        self.count = count
        self.sections = ranks_SN.shape[0]
        assert begins_N.dtype == ranks_SN.dtype == torch.int32
        assert ranks_SN.shape == (self.sections, count)
        assert begins_N.is_contiguous()
        assert ranks_SN.is_contiguous()
        self._tensors = (begins_N, ranks_SN)
        ranks_stride = 0 if self.sections == 1 else count
        self._rows = _LoraRows(begins_N.data_ptr(), ranks_SN.data_ptr(), ranks_stride, count)
        self.pointer = ctypes.addressof(self._rows)


class Kernels:
    """Each method is one call into the library, with as many threads as torch uses; tensors are on the CPU.

    All storage is bfloat16 or float32, and of one call the same. Outputs are contiguous and overwritten.
    ``can_multiply`` tells whether there is a `product`: where this CPU multiplies bfloat16 itself.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._rms_norm = _functions(library, "rms_norm")
        self._layer_norm = _functions(library, "layer_norm")
        self._gated_silu = _functions(library, "gated_silu")
        self._gelu_tanh = _functions(library, "gelu_tanh")
        self._decode_attention = _functions(library, "decode_attention")
        self._chunk_attention = _functions(library, "chunk_attention")
        self._lora = _functions(library, "lora")
        self.can_multiply = hasattr(library, "product_bf16")
        if self.can_multiply:
            self._product = library.product_bf16
            self._product.argtypes, self._product.restype = _PRODUCT_SIGNATURE, None

    def rms_norm(self, out_NW: Tensor, x_NW: Tensor, weight_W: Tensor, eps: float) -> None:
        """Norm x as transformers' LlamaRMSNorm does."""
        rows, width = x_NW.shape
        assert weight_W.shape[0] == width
        assert _alike(out_NW, x_NW, weight_W)
        call, threads = self._rms_norm[x_NW.dtype], torch.get_num_threads()
        call(out_NW.data_ptr(), x_NW.data_ptr(), weight_W.data_ptr(), eps, rows, width, threads)

    def layer_norm(self, out_NW: Tensor, x_NW: Tensor, weight_W: Tensor, bias_W: Tensor, eps: float) -> None:
        """Norm x as torch's LayerNorm does."""
        rows, width = x_NW.shape
        assert weight_W.shape[0] == bias_W.shape[0] == width
        assert _alike(out_NW, x_NW, weight_W, bias_W)
        call, threads = self._layer_norm[x_NW.dtype], torch.get_num_threads()
        call(out_NW.data_ptr(), x_NW.data_ptr(), weight_W.data_ptr(), bias_W.data_ptr(), eps, rows, width, threads)

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
        self, out: Tensor, qkv: Tensor, keys_PGDL: Tensor, values_PGLD: Tensor, rows: AttentionRows, scale: float
    ) -> None:
        """Rotate q and k, write k and v into the cache, and attend: one new token for each row.

        ``out`` is (N, H·D), ``qkv`` (N, (H + 2G)·D or more), each row q | k | v; its rows may lie apart.
        """
        _, kv_heads, head_dim, places = keys_PGDL.shape
        (count, query_numbers), (qkv_stride, one) = out.shape, qkv.stride()
        dtype, query_heads = qkv.dtype, query_numbers // head_dim
        assert count == qkv.shape[0] == rows.count
        assert rows.rotary <= head_dim
        assert query_heads % kv_heads == 0
        assert qkv.shape[1] >= query_numbers + 2 * kv_heads * head_dim
        assert one == 1
        assert values_PGLD.shape[2] == places
        assert _alike(keys_PGDL, values_PGLD, out)
        assert keys_PGDL.dtype == dtype
        self._decode_attention[dtype](
            out.data_ptr(),
            qkv.data_ptr(),
            qkv_stride,
            keys_PGDL.data_ptr(),
            values_PGLD.data_ptr(),
            rows.pointer,
            query_heads,
            kv_heads,
            head_dim,
            places,
            scale,
            torch.get_num_threads(),
        )

    def chunk_attention(
        self,
        out: Tensor,
        qkv: Tensor,
        keys_GDL: Tensor,
        values_GLD: Tensor,
        cos_NR: Tensor,
        sin_NR: Tensor,
        past: int,
        scale: float,
    ) -> None:
        """As `decode_attention`, for several tokens of one slot, in their order, behind the ``past`` that it has."""
        (kv_heads, head_dim, places), (count, query_numbers) = keys_GDL.shape, out.shape
        (qkv_stride, one), rotary = qkv.stride(), cos_NR.shape[1]
        query_heads = query_numbers // head_dim
        assert qkv.shape[0] == cos_NR.shape[0] == sin_NR.shape[0] == count
        assert rotary <= head_dim
        assert rotary % 2 == 0
        assert past + count <= places == values_GLD.shape[1]
        assert query_heads % kv_heads == 0
        assert qkv.shape[1] >= query_numbers + 2 * kv_heads * head_dim
        assert one == 1
        assert _alike(keys_GDL, values_GLD, out)
        assert cos_NR.dtype == torch.float32
        assert _alike(cos_NR, sin_NR)
        self._chunk_attention[qkv.dtype](
            out.data_ptr(),
            qkv.data_ptr(),
            qkv_stride,
            keys_GDL.data_ptr(),
            values_GLD.data_ptr(),
            cos_NR.data_ptr(),
            sin_NR.data_ptr(),
            rotary,
            count,
            past,
            query_heads,
            kv_heads,
            head_dim,
            places,
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
        """Give x·Wᵀ + b, in bfloat16, with ``added_NO`` added before it is rounded; it may be ``out_NO`` itself.

        A row's result is the same bit by bit whatever rows are beside it.
        """
        rows, inputs = x_NI.shape
        assert x_NI.dtype == torch.bfloat16
        assert inputs == panels.inputs
        assert out_NO.shape == (rows, panels.outputs)
        assert added_NO is None or added_NO.shape == out_NO.shape
        assert _alike(out_NO, x_NI, *(() if added_NO is None else (added_NO,)))
        added = None if added_NO is None else added_NO.data_ptr()
        self._product(out_NO.data_ptr(), x_NI.data_ptr(), added, rows, panels.pointer, torch.get_num_threads())


def _functions(library: ctypes.CDLL, name: str) -> _Functions:
    functions: _Functions = {}
    for dtype, suffix in _SUFFIXES.items():
        function = getattr(library, f"{name}_{suffix}")
        function.argtypes, function.restype = _SIGNATURES[name], None
        functions[dtype] = function
    return functions


def _alike(first: Tensor, *others: Tensor) -> bool:
    """Tell whether all are contiguous and of one dtype."""
    dtype = first.dtype
    return first.is_contiguous() and all(
        other is None or (other.dtype == dtype and other.is_contiguous()) for other in others
    )
