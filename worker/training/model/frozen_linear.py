"""What our own functions need to know of an adapted linear layer, read from PEFT's modules."""

from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn


@dataclass(frozen=True)
class FrozenLinear:
    """One frozen layer; ``adapter`` is A (rank, inputs) and B (outputs, rank) in float32, None where there is none."""

    weight_OI: Tensor
    bias_O: Tensor | None
    adapter: tuple[Tensor, Tensor] | None
    scale: float


def find_own_layer(layer: Any) -> FrozenLinear | None:
    """Give a layer as our own functions compute it; None where PEFT's module has to, as with dropout or DoRA."""
    if isinstance(layer, PeftLinear):
        [name] = layer.active_adapters
        base: Any = layer.get_base_layer()
        plain = type(base) is nn.Linear and isinstance(layer.lora_dropout[name], nn.Identity)
        if not plain or layer.lora_variant or layer.disable_adapters or layer.merged:
            return None
        lora_a: Any = layer.lora_A[name]
        lora_b: Any = layer.lora_B[name]
        return FrozenLinear(base.weight, base.bias, (lora_a.weight, lora_b.weight), layer.scaling[name])
    if type(layer) is nn.Linear:
        return FrozenLinear(layer.weight, layer.bias, None, 0.0)
    return None
