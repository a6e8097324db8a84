"""A layer's weights as the native product reads them: rearranged once into panels of 32 outputs.

A panel holds, for every two inputs, both numbers of each of its outputs side by side. The product itself is
`kernels.Kernels.product`.
"""

import ctypes
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

PANEL: Final = 32  # outputs, as in product.hpp

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Panels(ctypes.Structure):
    """As Panels in product.hpp."""

    _fields_ = (
        ("weights", _POINTER),
        ("scale", _POINTER),
        ("bias", _POINTER),
        ("inputs", _NUMBER),
        ("outputs", _NUMBER),
    )


class Panels:
    """W_OI and a bias, in bfloat16, or W in int8 with a float32 scale for each output."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, scale_O: Tensor | None = None) -> None:
        """Copy the weights, which are bfloat16 without ``scale_O`` and int8 with it; see `fits`."""
        self.outputs, self.inputs = weight_OI.shape
        assert fits(weight_OI)
        assert weight_OI.dtype == (torch.bfloat16 if scale_O is None else torch.int8)
        assert bias_O is None or bias_O.dtype == torch.bfloat16
        assert scale_O is None or scale_O.dtype == torch.float32
        missing = -self.outputs % PANEL
        padded_OI = pad(weight_OI, (0, 0, 0, missing)) if missing else weight_OI
        self._panels = padded_OI.view(-1, PANEL, self.inputs // 2, 2).transpose(1, 2).contiguous()
        self._scale_O = None if scale_O is None else pad(scale_O, (0, missing))
        self._bias_O = None if bias_O is None else pad(bias_O, (0, missing))
        optional = (None if tensor is None else tensor.data_ptr() for tensor in (self._scale_O, self._bias_O))
        self._struct = _Panels(self._panels.data_ptr(), *optional, self.inputs, self.outputs)
        self.pointer = ctypes.addressof(self._struct)

    def weight(self) -> Tensor:
        """Give W_OI in bfloat16, as it is computed with."""
        weight_OI = self._panels.transpose(1, 2).reshape(-1, self.inputs)[: self.outputs]
        if self._scale_O is None:
            return weight_OI
        return (weight_OI * self._scale_O[: self.outputs, None]).bfloat16()


def fits(weight_OI: Tensor) -> bool:
    """Tell whether weights can lie in panels: on a CPU, of an even number of inputs."""
    return weight_OI.device.type == "cpu" and weight_OI.shape[1] % 2 == 0
