"""Linear layers that share an input, as one product over weights that are laid out for it once.

On a CPU the product is ``native``'s, over weights in 16 bits, wherever it has one for the number type. Elsewhere
weights in bfloat16 are handed to oneDNN in its own layout; the operators are torch's private ones, so they are tried
first. The adapters' factors are ``adapted_projection``'s.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from worker.inference.native.kernels import Kernels
from worker.inference.native.panels import Panels, fits, group_of, quantize
from worker.inference.native.weight_memory import WeightMemory

logger = logging.getLogger(__name__)

Weights = Literal["model", "int8"]
MAX_INT8_ROWS: Final = 8  # the product with 8-bit weights goes row by row; more rows are quicker with them unpacked


class Projection(Protocol):
    """A product x·Wᵀ + b over the layers' weights side by side."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Give (N, O)."""
        ...

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        """Give the product added to ``states``, which are left as they are."""
        ...

    def weight(self) -> Tensor:
        """Give W_OI as it is computed with."""
        ...

    @property
    def weight_bytes(self) -> int:
        """How much of them each product reads."""
        ...

    @property
    def panels(self) -> Panels | None:
        """What our compiled products read; None where another product reads something else."""
        ...

    def find_rows(self) -> Callable[[Tensor], Tensor] | None:
        """Give what gives (N, I), some outputs' weights; None where they are not kept exactly, or not one by one."""
        ...


Make = Callable[[Tensor, Tensor | None, torch.dtype], Projection]  # of W_OI, a bias, and the type that rows are in


class PlainProjection:
    """torch's own linear."""

    panels = None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight_OI, self._bias_O = weight_OI, bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        return linear(x_NI, self._weight_OI, self._bias_O)

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        return states_NO + self(x_NI)

    def weight(self) -> Tensor:
        return self._weight_OI

    @property
    def weight_bytes(self) -> int:
        return self._weight_OI.nbytes

    def find_rows(self) -> Callable[[Tensor], Tensor] | None:
        return self._weight_OI.__getitem__


class PackedProjection:
    """oneDNN's product over weights in its own layout; the same result bit by bit."""

    panels = None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)
        self._product: Any = torch.ops.mkldnn._linear_pointwise.default
        self._sum: Any = torch.ops.mkldnn._linear_pointwise.binary
        self._bias_O = bias_O
        self.weight_bytes = weight_OI.nbytes

    def __call__(self, x_NI: Tensor) -> Tensor:
        result: Tensor = self._product(x_NI, self._packed, self._bias_O, "none", [], "")
        return result

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        result: Tensor = self._sum(x_NI, states_NO, self._packed, self._bias_O, "add")
        return result

    def weight(self) -> Tensor:
        dense: Tensor = self._packed.to_dense()
        return dense

    def find_rows(self) -> None:
        return None


class NativeProjection:
    """Our own product, of weights in 16 or 8 bits: at the speed of memory for few rows, of the CPU for many."""

    def __init__(self, panels: Panels, kernels: Kernels) -> None:
        self.panels: Panels = panels
        self._kernels = kernels

    def __call__(self, x_NI: Tensor) -> Tensor:
        result_NO = x_NI.new_empty(len(x_NI), self.panels.outputs)
        self._kernels.product(result_NO, x_NI, self.panels)
        return result_NO

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        sum_NO = torch.empty_like(states_NO)
        self._kernels.product(sum_NO, x_NI, self.panels, states_NO)
        return sum_NO

    def weight(self) -> Tensor:
        return self.panels.weight()

    @property
    def weight_bytes(self) -> int:
        return self.panels.weight_bytes

    def find_rows(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.panels.is_quantized else self.panels.rows


class Int8Projection:
    """torch's product with weights in 8 bits."""

    panels = None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._quantized_OI, scale_1O = quantize(weight_OI, weight_OI.shape[1])
        self._scale_O = scale_1O[0].to(weight_OI.dtype)
        self._bias_O = bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        if len(x_NI) > MAX_INT8_ROWS:
            return linear(x_NI, self.weight(), self._bias_O)
        result_NO: Tensor = torch._weight_int8pack_mm(x_NI.contiguous(), self._quantized_OI, self._scale_O)
        return result_NO if self._bias_O is None else result_NO.add_(self._bias_O)

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        return self(x_NI).add_(states_NO)

    def weight(self) -> Tensor:
        return self._quantized_OI.to(self._scale_O.dtype) * self._scale_O[:, None]

    @property
    def weight_bytes(self) -> int:
        return self._quantized_OI.nbytes

    def find_rows(self) -> None:
        return None


def maker(weights: Weights, kernels: Kernels | None) -> Make:
    """Choose how products are computed, from the device of the weights and the types; see `can_quantize` for "int8".

    Weights in panels lie close together, those of everything that is made by the result.
    """
    memory = WeightMemory()

    def make(weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> Projection:
        bias_O = None if bias_O is None else bias_O.to(dtype)
        if kernels is not None and dtype in kernels.multiplied and fits(weight_OI):
            group = group_of(weight_OI.shape[1], dtype)
            stored_OI, scale_GO = quantize(weight_OI, group) if weights == "int8" else (_halve(weight_OI, dtype), None)
            if stored_OI is not None:
                panels = Panels(stored_OI, bias_O, scale_GO, dtype=dtype, width=kernels.panel_width, copy=memory.copy)
                return NativeProjection(panels, kernels)
        weight_OI = weight_OI.to(dtype)
        if weights == "int8":
            return Int8Projection(weight_OI, bias_O)
        is_packed = weight_OI.device.type == "cpu" and dtype == torch.bfloat16 and can_pack()
        return PackedProjection(weight_OI, bias_O) if is_packed else PlainProjection(weight_OI, bias_O)

    return make


def _halve(weight_OI: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Give weights in the 16 bits that rows of a type are multiplied with; None if they would be other numbers."""
    if dtype == torch.bfloat16:
        return weight_OI.to(dtype)
    kinds = (torch.bfloat16, torch.float16)
    if weight_OI.dtype in kinds:
        return weight_OI
    return next((weight_OI.to(kind) for kind in kinds if _survives(weight_OI, kind)), None)


def _survives(weight_OI: Tensor, kind: torch.dtype) -> bool:
    """Tell whether numbers are the same in another type; of most that are not the first show it."""
    parts = weight_OI.split(64)  # of a size that stays in the caches, which is three times as quick as all at once
    return all(part.to(kind).to(part.dtype).equal(part) for part in parts)


def can_quantize(device: torch.device, dtype: torch.dtype, kernels: Kernels | None) -> bool:
    """Tell whether weights can be kept in 8 bits: torch has the product for CPUs and bfloat16."""
    is_multiplied = dtype == torch.bfloat16 or (kernels is not None and dtype in kernels.multiplied)
    return device.type == "cpu" and is_multiplied


@lru_cache(maxsize=1)
def can_pack() -> bool:
    """Tell whether this torch has the operators, and they give what its linear gives."""
    x, weight = torch.randn(3, 32).bfloat16(), torch.randn(48, 32).bfloat16()
    try:
        packed = PackedProjection(weight, None)
        return torch.equal(packed(x), linear(x, weight)) and torch.equal(packed.weight(), weight)
    except (AttributeError, RuntimeError) as reason:  # a RuntimeError too is what torch raises for an operator it lacks
        logger.warning("Weights are not packed, products of few rows are slower: %s", reason)
        return False
