"""An adapter's factors as their file has them, and what they make of a base model's weights, in float32.

Our own arithmetic: that it is the adapter's is found by holding the written result against PEFT's (``oracle``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from core.errors import AdapterInvalid
from core.serving.adapter_format import CONFIG, WEIGHTS
from core.serving.peft_config import parse_config, resolve_layers

_PREFIX: Final = "base_model.model."
_A, _B, _LENGTH = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class LayerFactors:
    """What an adapter has for one linear layer. ``length_O``: of a DoRA, of each row of the weight."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float
    length_O: Tensor | None

    def delta(self) -> Tensor:
        """Give what is added to the weight_OI, a DoRA's lengths not counted."""
        return self.scale * (self.b_OR @ self.a_RI)

    def merged(self, weight_OI: Tensor) -> Tensor:
        """Give the weight with the adapter in it; ``weight_OI`` is in float32 and is left as it is."""
        merged_OI = weight_OI + self.delta()
        if self.length_O is None:
            return merged_OI
        norm_O: Tensor = torch.linalg.vector_norm(merged_OI, dim=1)
        return merged_OI * (self.length_O / norm_O)[:, None]


def read_factors(folder: Path) -> dict[str, LayerFactors]:
    """Read an adapter's folder; give its layers' factors, by the layers' names in the base model.

    Raises:
        AdapterInvalid: config and tensors do not fit each other.
    """
    digest = folder.name
    config = parse_config(digest, (folder / CONFIG).read_bytes())
    tensors = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    named = {name.removesuffix(_A) for name in tensors if name.endswith(_A)}
    factors = {}
    for layer, (rank, scale) in resolve_layers(digest, config, sorted(named)).items():
        a_RI, b_OR = tensors.pop(layer + _A), tensors.pop(layer + _B, None)
        length_O = tensors.pop(layer + _LENGTH, None)
        if b_OR is None or a_RI.shape[0] != rank or b_OR.shape[1] != rank or config.use_dora == (length_O is None):
            raise AdapterInvalid(digest, f"the tensors of layer {layer} are not those that {CONFIG} tells of")
        factors[layer] = LayerFactors(a_RI, b_OR, scale, length_O)
    if tensors:
        raise AdapterInvalid(digest, f"tensor {sorted(tensors)[0]!r} belongs to none of its layers")
    return factors


def merge(name: str, weight: Tensor, factors: Mapping[str, LayerFactors]) -> Tensor:
    """Give a base model's tensor in float32 with the adapter in it, where the adapter has something for it."""
    own = factors.get(name.removesuffix(".weight"))
    return weight.float() if own is None or not name.endswith(".weight") else own.merged(weight.float())
