"""Linear layers that share an input, as one projection with the group of adapters' factors for them.

How the product is computed is ``projection``'s, what adapters add to it ``lora``'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inference.lora.bank import LoraGroup
from worker.inference.model.projections.projection import Make
from worker.inference.native.panels import Panels


@dataclass(frozen=True)
class LinearWeights:
    """One linear layer's numbers, as they are stored, and the type that it computes in."""

    weight_OI: Tensor
    bias_O: Tensor | None
    dtype: torch.dtype


class AdaptedProjection:
    """A projection with the group of adapters' factors for its layers.

    Attributes:
        biases: of the layers that have one, by name.
    """

    def __init__(self, names: Sequence[str], layers: Sequence[LinearWeights], make: Make) -> None:
        """Lay the layers' weights side by side; what is kept of them is up to ``make``."""
        outputs = [len(layer.weight_OI) for layer in layers]
        self.group = LoraGroup(names, layers[0].weight_OI.shape[1], outputs)
        named = zip(names, layers, strict=True)
        self.biases = {name: layer.bias_O for name, layer in named if layer.bias_O is not None}
        weight_OI = torch.cat([layer.weight_OI for layer in layers]) if len(layers) > 1 else layers[0].weight_OI
        self._base = make(weight_OI, _bias(layers), layers[0].dtype)

    def __call__(self, x_NI: Tensor) -> Tensor:
        if len(x_NI) == 0:  # the head of a step that only feeds parts of prompts; some products refuse it
            return x_NI.new_empty(0, self.group.offsets[-1])
        return self._base(x_NI)

    def onto(self, states_NO: Tensor, x_NI: Tensor) -> Tensor:
        """Give the product added to ``states``."""
        return self._base.onto(states_NO, x_NI)

    @property
    def kind(self) -> str:
        """How the product is computed."""
        return type(self._base).__name__

    @property
    def weight_bytes(self) -> int:
        """See ``Projection.weight_bytes``."""
        return self._base.weight_bytes

    @property
    def panels(self) -> Panels | None:
        """See ``Projection.panels``."""
        return self._base.panels

    def find_rows(self) -> Callable[[Tensor], Tensor] | None:
        """See ``Projection.find_rows``."""
        return self._base.find_rows()

    def weight_of(self, name: str) -> Tensor:
        """Give one layer's weights, (O, I)."""
        number = self.group.names.index(name)
        return self._base.weight()[self.group.offsets[number] : self.group.offsets[number + 1]]


def _bias(layers: Sequence[LinearWeights]) -> Tensor | None:
    if all(layer.bias_O is None for layer in layers):
        return None
    return torch.cat(
        [layer.weight_OI.new_zeros(len(layer.weight_OI)) if layer.bias_O is None else layer.bias_O for layer in layers]
    )
