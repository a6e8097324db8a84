"""What our own functions need to know of an adapted linear layer, read from PEFT's modules.

Rows of several adapters may lie behind each other in one input: each stretch of them is its own adapter's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn


class Stretch(NamedTuple):
    """Neighbouring rows, and by which name PEFT knows the adapter that they are computed with."""

    adapter: str
    rows: slice


class Factors(NamedTuple):
    """An adapter of one layer: scale * B @ A, in float32."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float


@dataclass(frozen=True)
class FrozenLinear:
    """One frozen layer; ``factors`` are those of each stretch's adapter, None where that leaves this layer alone."""

    weight_OI: Tensor
    bias_O: Tensor | None
    factors: tuple[Factors | None, ...]


def find_own_layer(layer: Any, adapters: Sequence[str]) -> FrozenLinear | None:
    """Give a layer as our own functions compute it; None where PEFT's module has to, as with dropout or DoRA."""
    if isinstance(layer, PeftLinear):
        base: Any = layer.get_base_layer()
        if type(base) is not nn.Linear or layer.disable_adapters or layer.merged:
            return None
        if not all(_is_plain(layer, name) for name in adapters):
            return None
        return FrozenLinear(base.weight, base.bias, tuple(_factors_of(layer, name) for name in adapters))
    if type(layer) is nn.Linear:
        return FrozenLinear(layer.weight, layer.bias, (None,) * len(adapters))
    return None


def _is_plain(layer: Any, name: str) -> bool:
    if name not in layer.lora_A:
        return True
    return name not in layer.lora_variant and isinstance(layer.lora_dropout[name], nn.Identity)


def _factors_of(layer: Any, name: str) -> Factors | None:
    if name not in layer.lora_A:
        return None
    return Factors(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
