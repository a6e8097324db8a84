"""An adapter in memory: the two factors of each layer that it changes, and the renderer that feeds it prompts.

Where adapters come from and whether they fit the model is not known here.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from core.text.rendering import Renderer


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one layer's delta, x·Aᵀ·B, in the base model's dtype and on its device.

    ``b_RO`` is PEFT's B transposed, with the scale multiplied in. ``magnitude_scale_O`` is DoRA's: what the layer's
    outputs, the delta in them but not the bias, are multiplied by. It is near 1, so it is kept in float32; None for
    plain LoRA.
    """

    a_RI: Tensor
    b_RO: Tensor
    magnitude_scale_O: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.a_RI, self.b_RO, self.magnitude_scale_O) if tensor is not None)


@dataclass(frozen=True)
class Adapter:
    """A verified adapter in memory: its pairs by the name of the linear layer they belong to.

    ``renderer`` gives prompts as the adapter was trained on them.
    """

    digest: str
    pairs: dict[str, LoraPair]
    renderer: Renderer
    bytes: int

    @cached_property
    def layers(self) -> frozenset[str]:
        return frozenset(self.pairs)

    @cached_property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(pair.rank for pair in self.pairs.values())

    @cached_property
    def has_dora(self) -> bool:
        """Whether it is DoRA's."""
        return any(pair.magnitude_scale_O is not None for pair in self.pairs.values())


def magnitude_scale(length_O: Tensor, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
    """Give what DoRA (2402.09353) multiplies each output by, so that its row of W + scale·B·A has the learnt length."""
    adapted_OI = weight_OI.float() + scale * (b_OR.float() @ a_RI.float())
    norm_O: Tensor = torch.linalg.vector_norm(adapted_OI, dim=1)
    return length_O.float() / norm_O
