"""Which tensors an adapter's file must hold, and of what shapes: by PEFT's config and the base model's layers.

Torch-free: the one answer for whoever serves an adapter and whoever takes one in from elsewhere. What the numbers in
the tensors are, and where they go, is each one's own matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import AdapterInvalid
from core.serving.peft_config import LoraConfig, resolve_layers
from core.serving.strict_json import shown
from core.serving.weights_reader import BYTES_OF_NUMBER, TensorEntry

A, B, LENGTH = "lora_A", "lora_B", "lora_magnitude_vector"  # PEFT's names
PARTS: Final = {A: ".weight", B: ".weight", LENGTH: ""}  # of a layer's tensors, and what follows in their names


@dataclass(frozen=True)
class PairShape:
    """What one layer's pair is to be like. ``has_length``: it is a DoRA, whose outputs have learnt lengths."""

    inputs: int
    outputs: int
    rank: int
    scale: float
    has_length: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of each stored tensor, by PEFT's name of the part."""
        factors: dict[str, tuple[int, ...]] = {A: (self.rank, self.inputs), B: (self.outputs, self.rank)}
        return factors | {LENGTH: (self.outputs,)} if self.has_length else factors

    def bytes(self, number_bytes: int) -> int:
        """Give what the pair takes where each number takes so much; lengths are always in float32."""
        length_bytes = self.outputs * BYTES_OF_NUMBER["F32"] if self.has_length else 0
        return self.rank * (self.inputs + self.outputs) * number_bytes + length_bytes


def pair_shapes(
    digest: str, config: LoraConfig, layers: Mapping[str, tuple[int, int]], *, max_rank: int
) -> dict[str, PairShape]:
    """Give what each adapted layer's pair must be like.

    Args:
        layers: inputs and outputs of the base model's linear layers, by name.
        max_rank: the widest adapter that the engine has room for.

    Raises:
        AdapterInvalid: the config means a layer that there is not, or a rank that there is no room for.
    """
    shapes = {}
    for name, (rank, scale) in resolve_layers(digest, config, layers).items():
        if rank > max_rank:
            raise AdapterInvalid(
                digest,
                f"layer {name} has rank {rank}, and this engine has room for {max_rank}; "
                "raise LORAMILL_ENGINE_LORA_COLUMNS",
            )
        inputs, outputs = layers[name]
        shapes[name] = PairShape(inputs, outputs, rank, scale, config.use_dora)
    return shapes


def place_tensors(
    digest: str, entries: Sequence[TensorEntry], shapes: Mapping[str, PairShape]
) -> list[tuple[TensorEntry, tuple[str, str]]]:
    """Find each tensor's layer and part, before any of them is read.

    Raises:
        AdapterInvalid: a tensor belongs to no layer or has another shape, or one is missing; names it.
    """
    wanted = {
        f"base_model.model.{layer}.{part}{PARTS[part]}": (layer, part, shape)
        for layer, pair in shapes.items()
        for part, shape in pair.shapes().items()
    }
    placed = []
    for entry in entries:
        if entry.name not in wanted:
            raise AdapterInvalid(digest, f"tensor {shown(entry.name)} belongs to no target module of the base model")
        layer, part, shape = wanted.pop(entry.name)
        if entry.shape != shape:
            problem = f"has shape {list(entry.shape)}, the base model and the rank need {list(shape)}"
            raise AdapterInvalid(digest, f"tensor {shown(entry.name)} {problem}")
        placed.append((entry, (layer, part)))
    for layer, part, _ in wanted.values():
        raise AdapterInvalid(digest, f"layer {layer} has no {part} tensor")
    return placed
