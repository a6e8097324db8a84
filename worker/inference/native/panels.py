"""A layer's weights as the native products read them: rearranged once into panels of outputs side by side.

A panel holds its outputs' weights for one input after another. Those of bfloat16, and all that bfloat16 is multiplied
with, lie in pairs: both of an output's weights for two inputs side by side. The products are `kernels.Kernels.product`.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
KINDS: Final = {torch.bfloat16: 0, torch.float16: 1, torch.int8: 2}  # as Kind in panels.hpp
GROUP: Final = 128  # as in panels.hpp
_PAIRS: Final = {torch.bfloat16: torch.int32, torch.int8: torch.int16}  # of the bytes of two


class _Panels(ctypes.Structure):
    """As Panels in panels.hpp."""

    _fields_ = (
        ("weights", _POINTER),
        ("scale", _POINTER),
        ("bias", _POINTER),
        ("inputs", _NUMBER),
        ("outputs", _NUMBER),
        ("kind", ctypes.c_int32),
    )


class Panels:
    """W_OI and a bias, for products of rows in one type.

    W is in bfloat16, or in int8 with float32 scales; for rows in float32 it may be in float16 too.
    """

    def __init__(
        self,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        scale_GO: Tensor | None = None,
        *,
        dtype: torch.dtype,
        width: int,
        copy: Callable[[Tensor], Tensor] = Tensor.contiguous,
    ) -> None:
        """Copy the weights; see `fits`.

        Args:
            scale_GO: of each output for every `group_of` inputs one after another; None: weights are not in int8.
            dtype: of rows, bias and results.
            width: how many outputs lie side by side, `kernels.Kernels.panel_width`.
            copy: makes the contiguous copy that is kept.
        """
        self.outputs, self.inputs = weight_OI.shape
        assert fits(weight_OI)
        assert (weight_OI.dtype == torch.int8) == (scale_GO is not None)
        assert dtype == torch.float32 or weight_OI.dtype != torch.float16
        assert bias_O is None or bias_O.dtype == dtype
        self._group = group_of(self.inputs, dtype)
        groups = math.ceil(self.inputs / self._group)
        assert scale_GO is None or (scale_GO.dtype == torch.float32 and scale_GO.shape == (groups, self.outputs))
        self.dtype, self._width, self._kind = dtype, width, weight_OI.dtype
        self.weight_bytes: int = weight_OI.nbytes + (0 if scale_GO is None else scale_GO.nbytes)
        missing = -self.outputs % width
        padded_OI = pad(weight_OI, (0, 0, 0, missing)) if missing else weight_OI.contiguous()
        pair = _PAIRS[weight_OI.dtype] if torch.bfloat16 in (weight_OI.dtype, dtype) else weight_OI.dtype
        # pairs move as one number, which is quicker than as two
        self.panels = copy(padded_OI.view(pair).unflatten(0, (-1, width)).transpose(1, 2))
        self._scale_GO = None if scale_GO is None else pad(scale_GO, (0, missing))
        self._bias_O = None if bias_O is None else pad(bias_O, (0, missing))
        optional = (None if tensor is None else tensor.data_ptr() for tensor in (self._scale_GO, self._bias_O))
        kind = KINDS[weight_OI.dtype]
        self._struct = _Panels(self.panels.data_ptr(), *optional, self.inputs, self.outputs, kind)
        self.pointer = ctypes.addressof(self._struct)

    @property
    def is_quantized(self) -> bool:
        """Whether there are scales."""
        return self._scale_GO is not None

    def weight(self) -> Tensor:
        """Give W_OI in the rows' type, as it is computed with."""
        return self._widen(self.panels.transpose(1, 2).flatten(0, 1)[: self.outputs], slice(0, self.outputs))

    def rows(self, outputs_N: Tensor) -> Tensor:
        """Give (N, I), the weights of some outputs, as `weight` does."""
        return self._widen(self.panels[outputs_N // self._width, :, outputs_N % self._width], outputs_N)

    def _widen(self, stored: Tensor, outputs: Tensor | slice) -> Tensor:
        weight_NI = stored.view(self._kind)
        if self._scale_GO is None:
            return weight_NI.to(self.dtype)
        scale_NG = self._scale_GO[:, outputs].T
        return (weight_NI * scale_NG.repeat_interleave(self._group, dim=1)[:, : self.inputs]).to(self.dtype)


def group_of(inputs: int, dtype: torch.dtype) -> int:
    """Say how many inputs' weights share a scale where they are in int8 and rows in a type: in float32 few of them."""
    return min(GROUP, inputs) if dtype == torch.float32 else inputs


def quantize(weight_OI: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Give weights in int8, and float32 scales (G, O) of each output for ``group`` inputs after another.

    Half the bytes of bfloat16, and an approximation: the largest weight of a group becomes 127 or -127.
    """
    parts = weight_OI.float().split(group, dim=1)
    scales = [part.abs().amax(dim=1).clamp_(min=1e-8) / 127 for part in parts]
    rounded = [(part / scale_O[:, None]).round_().to(torch.int8) for part, scale_O in zip(parts, scales, strict=True)]
    return torch.cat(rounded, dim=1), torch.stack(scales)


def fits(weight_OI: Tensor) -> bool:
    """Tell whether weights can lie in panels: on a CPU, of an even number of inputs."""
    return weight_OI.device.type == "cpu" and weight_OI.shape[1] % 2 == 0
