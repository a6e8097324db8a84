"""The trainer's kernels as typed calls on float32 tensors of the CPU: what each computes, what it takes for granted.

How they are built is not known here. Outputs are overwritten; tensors are contiguous, those of a product may have any
strides. E are the numbers of a head that are rotated, K scored positions.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_POINTER, _NUMBER, _REAL, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: Final = {
    "product": (_POINTER, _NUMBER, _NUMBER, _POINTER, _NUMBER, _POINTER, _NUMBER, _COUNT),
    "rms_norm": (*[_POINTER] * 4, _REAL, _NUMBER, _NUMBER, _COUNT),
    "rms_norm_back": (*[_POINTER] * 5, _NUMBER, _NUMBER, _COUNT),
    "gated_silu": (*[_POINTER] * 3, _NUMBER, _NUMBER, _COUNT),
    "gated_silu_back": (*[_POINTER] * 5, _NUMBER, _NUMBER, _COUNT),
    "rotate": (*[_POINTER] * 4, _REAL, *[_NUMBER] * 4, _COUNT),
    "attention": (*[_POINTER] * 6, *[_NUMBER] * 4, _REAL, _COUNT),
    "attention_back": (*[_POINTER] * 10, *[_NUMBER] * 4, _REAL, _COUNT),
    "softmax_gradient": (*[_POINTER] * 5, _NUMBER, _NUMBER, _COUNT),
}


class _Matrix(ctypes.Structure):
    _fields_ = (("data", _POINTER), ("row", _NUMBER), ("column", _NUMBER))


class _Term(ctypes.Structure):
    _fields_ = (("left", _Matrix), ("right", _Matrix), ("depth", _NUMBER), ("scale", _REAL))


class _Stretch(ctypes.Structure):
    _fields_ = (("begin", _NUMBER), ("end", _NUMBER), ("own", _Term))


class Term(NamedTuple):
    """What a product adds up: scale * left @ right."""

    left: Tensor
    right: Tensor
    scale: float = 1.0


class OwnTerm(NamedTuple):
    """What is added to some rows alone; ``term`` None: nothing."""

    rows: slice
    term: Term | None


class TrainerKernels:
    """Each method is one call into the library, with as many threads as torch uses.

    Attributes:
        name: another for each source, compiler and level of CPU.
    """

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._functions: dict[str, Any] = {}
        for kernel, arguments in _SIGNATURES.items():
            function = getattr(library, f"{kernel}_f32")
            function.argtypes, function.restype = arguments, None
            self._functions[kernel] = function

    def product(self, out: Tensor, *terms: Term, own: Sequence[OwnTerm] = ()) -> Tensor:
        """Give the sum of the terms, in ``out``; ``own`` are all rows in order, or none.

        What a row becomes does not depend on which other rows there are, to the bit: neither on their number, where
        there are terms of their own or more columns than rows, nor on what they hold.
        """
        rows, columns = out.shape
        assert out.dtype == torch.float32
        listed = (_Term * len(terms))(*[_term(term, rows, columns) for term in terms])
        stretches = (_Stretch * len(own))(*[_stretch(one, columns) for one in own])
        assert [one.begin for one in stretches] + [rows] * bool(own) == [0] * bool(own) + [one.end for one in stretches]
        self._call("product", ctypes.byref(_matrix(out)), rows, columns, listed, len(terms), stretches, len(stretches))
        return out

    def linear(self, input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, own: Sequence[OwnTerm] = ()) -> Tensor:
        """Give a layer's output, with what rows have of their own added to it."""
        terms = [Term(input_NI, weight_OI.t())]
        if bias_O is not None:
            terms.append(Term(input_NI.new_ones(1, 1).expand(len(input_NI), 1), bias_O[None]))
        return self.product(input_NI.new_empty(len(input_NI), len(weight_OI)), *terms, own=own)

    def rms_norm(self, states_NH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Give the normed rows, and what each was multiplied by, (N)."""
        out_NH, scales_N = torch.empty_like(states_NH), states_NH.new_empty(len(states_NH))
        self._call("rms_norm", *_pointers(out_NH, scales_N, states_NH, weight_H), epsilon, *states_NH.shape)
        return out_NH, scales_N

    def rms_norm_back(self, grad_NH: Tensor, states_NH: Tensor, weight_H: Tensor, scales_N: Tensor) -> Tensor:
        """Give the gradient of the rows that were normed."""
        out_NH = torch.empty_like(states_NH)
        pointers = _pointers(out_NH, grad_NH, states_NH, weight_H, scales_N)
        self._call("rms_norm_back", *pointers, *states_NH.shape)
        return out_NH

    def gated_silu(self, gate_NI: Tensor, up_NI: Tensor) -> Tensor:
        """Give silu(gate) * up."""
        out_NI = torch.empty_like(gate_NI)
        self._call("gated_silu", *_pointers(out_NI, gate_NI, up_NI), *gate_NI.shape)
        return out_NI

    def gated_silu_back(self, grad_NI: Tensor, gate_NI: Tensor, up_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Give the gradients of gate and up."""
        gate_grad_NI, up_grad_NI = torch.empty_like(gate_NI), torch.empty_like(up_NI)
        pointers = _pointers(gate_grad_NI, up_grad_NI, grad_NI, gate_NI, up_NI)
        self._call("gated_silu_back", *pointers, *gate_NI.shape)
        return gate_grad_NI, up_grad_NI

    def rotate(self, states_NAD: Tensor, cos_NE: Tensor, sin_NE: Tensor, *, back: bool) -> Tensor:
        """Rotate the first E numbers of each head, of which halves are paired; or back."""
        out_NAD = torch.empty_like(states_NAD)
        pointers = _pointers(out_NAD, states_NAD, cos_NE, sin_NE)
        self._call("rotate", *pointers, -1.0 if back else 1.0, *states_NAD.shape, cos_NE.shape[1])
        return out_NAD

    def attention(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, begins: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Give causal attention inside each segment, and the logarithms of the sums of e^score, (N, A).

        ``begins`` are the segments' first rows, int32, and at last where all end.
        """
        out_NAD, log_sums_NA = torch.empty_like(query_NAD), query_NAD.new_empty(query_NAD.shape[:2])
        pointers = _pointers(out_NAD, log_sums_NA, query_NAD, key_NGD, value_NGD)
        self._call("attention", *pointers, begins.data_ptr(), *_sizes(query_NAD, key_NGD, begins), scale)
        return out_NAD, log_sums_NA

    def attention_back(
        self,
        grad_NAD: Tensor,
        attended: tuple[Tensor, Tensor],
        states: tuple[Tensor, Tensor, Tensor],
        begins: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the gradients of query, key and value, which are ``states``; ``attended`` is what `attention` gave."""
        query_NAD, key_NGD, value_NGD = states
        grads = torch.empty_like(query_NAD), torch.zeros_like(key_NGD), torch.zeros_like(value_NGD)
        pointers = _pointers(*grads, grad_NAD, *attended, *states)
        self._call("attention_back", *pointers, begins.data_ptr(), *_sizes(query_NAD, key_NGD, begins), scale)
        return grads

    def softmax_gradient(
        self, logits_KV: Tensor, targets_K: Tensor, scale_K: Tensor, nll_K: Tensor, hit_K: Tensor
    ) -> None:
        """Write each row's nll and hit, and in place of its logits their gradient: scale * (softmax - one-hot)."""
        assert (targets_K.dtype, hit_K.dtype) == (torch.int64, torch.bool)
        logits, scale, nll = _pointers(logits_KV, scale_K, nll_K)
        targets, hit = targets_K.data_ptr(), hit_K.data_ptr()
        self._call("softmax_gradient", logits, targets, scale, nll, hit, *logits_KV.shape)

    def _call(self, kernel: str, *arguments: Any) -> None:
        self._functions[kernel](*arguments, torch.get_num_threads())


def _matrix(tensor: Tensor) -> _Matrix:
    return _Matrix(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _term(term: Term, rows: int, columns: int) -> _Term:
    left, right, scale = term
    assert left.shape == (rows, right.shape[0])
    assert right.shape[1] == columns
    assert left.dtype == right.dtype == torch.float32
    assert len(right) > 0
    return _Term(_matrix(left), _matrix(right), right.shape[0], scale)


def _stretch(one: OwnTerm, columns: int) -> _Stretch:
    begin, end = one.rows.start, one.rows.stop
    return _Stretch(begin, end, _Term() if one.term is None else _term(one.term, end - begin, columns))


def _pointers(*tensors: Tensor) -> list[int]:
    for tensor in tensors:
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
    return [tensor.data_ptr() for tensor in tensors]


def _sizes(query_NAD: Tensor, key_NGD: Tensor, begins: Tensor) -> tuple[int, int, int, int]:
    """Give segments, heads, key-value heads and a head's width."""
    assert begins.dtype == torch.int32
    _, heads, width = query_NAD.shape
    return len(begins) - 1, heads, key_NGD.shape[1], width
