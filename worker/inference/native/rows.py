"""What the kernels read beside the numbers: whose factors and slots a step's rows use; built once, not per call.

The layouts are those of the .hpp files, the axis letters those of ``kernels``, which computes with them.
"""

import ctypes
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

MOST_SECTIONS: Final = 8  # as in lora_tiles.hpp

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _LoraSite(ctypes.Structure):
    """As LoraSite in lora_tiles.hpp."""

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

    def __init__(self, a_LRI: Tensor, b_RO: Sequence[Tensor], offsets: Sequence[int]) -> None:
        """Section l adds to the outputs from offsets[l] on; its B, transposed, is b_RO[l], as wide as its outputs."""
        sections, columns, inputs = a_LRI.shape
        assert sections == len(b_RO) == len(offsets) <= MOST_SECTIONS
        assert a_LRI.is_contiguous()
        assert a_LRI.device.type == "cpu"
        for b in b_RO:
            assert b.is_contiguous()
            assert b.dtype == a_LRI.dtype
            assert b.shape[0] == columns
        widths = [b.shape[1] for b in b_RO]
        self.dtype = a_LRI.dtype
        self.sections = sections
        self.inputs = inputs
        self.outputs = max(offset + width for offset, width in zip(offsets, widths, strict=True))
        self._tensors = (a_LRI, *b_RO)
        self._site = _LoraSite(a_LRI.data_ptr(), sections, columns, inputs)
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

    def __init__(self, cos_NE: Tensor, sin_NE: Tensor, slots_N: Tensor, lengths_N: Tensor) -> None:
        """Rotate the first E numbers of each head, halves against each other as in GPT-NeoX, by float32 cos and sin.

        ``slots_N``, int32, are all different; ``lengths_N``, int32, are the tokens in each before this one, below P.
        """
        count, rotary = cos_NE.shape
        assert sin_NE.shape == (count, rotary)
        assert rotary % 2 == 0
        assert slots_N.shape == lengths_N.shape == (count,)
        assert cos_NE.dtype == sin_NE.dtype == torch.float32
        assert slots_N.dtype == lengths_N.dtype == torch.int32
        self._tensors = (cos_NE, sin_NE, slots_N, lengths_N)
        assert all(tensor.is_contiguous() for tensor in self._tensors)
        self.count = count
        self.rotary = rotary
        self._rows = _AttentionRows(*(tensor.data_ptr() for tensor in self._tensors), count, rotary)
        self.pointer = ctypes.addressof(self._rows)


class _LoraRows(ctypes.Structure):
    """As LoraRows in lora_tiles.hpp."""

    _fields_ = (("begins", _POINTER), ("ranks", _POINTER), ("ranks_stride", _NUMBER), ("count", _NUMBER))


class LoraRows:
    """Which columns of the bank each row of a step uses; built once a step for all layers, as far as they agree."""

    def __init__(self, begins_N: Tensor, ranks_LN: Tensor) -> None:
        """Row n uses, in section l, ranks_LN[l, n] columns from begins_N[n] on; of rank 0 it stays as it is.

        Both are int32. Rows that begin at one column share one read of the factors. L is 1 where all sections agree.
        """
        (count,) = begins_N.shape
        self.count = count
        self.sections = ranks_LN.shape[0]
        assert begins_N.dtype == ranks_LN.dtype == torch.int32
        assert ranks_LN.shape == (self.sections, count)
        assert begins_N.is_contiguous()
        assert ranks_LN.is_contiguous()
        self._tensors = (begins_N, ranks_LN)
        ranks_stride = 0 if self.sections == 1 else count
        self._rows = _LoraRows(begins_N.data_ptr(), ranks_LN.data_ptr(), ranks_stride, count)
        self.pointer = ctypes.addressof(self._rows)
