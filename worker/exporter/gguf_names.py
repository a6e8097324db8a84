"""What a base model's tensors are called in GGUF, and in which order their rows stand there.

The names are the ``gguf`` package's. llama.cpp rotates neighbouring rows of a llama's queries and keys against each
other, transformers the halves of each head, so these rows are put into another order; those of other architectures
stay.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gguf
from torch import Tensor

from core.base_models.architectures.architecture import Architecture
from core.errors import ExportDiffers

_SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class GgufNames:
    """One base model's."""

    architecture: Architecture
    blocks: int
    heads: int
    key_heads: int

    @classmethod
    def of(cls, architecture: Architecture, config: dict[str, Any]) -> "GgufNames":
        heads = int(config["num_attention_heads"])
        key_heads = config.get("num_key_value_heads")
        return cls(
            architecture, int(config["num_hidden_layers"]), heads, heads if key_heads is None else int(key_heads)
        )

    def name_of(self, name: str) -> str:
        """Give GGUF's name of a tensor.

        Raises:
            ExportDiffers: there is none.
        """
        found: str | None = self._map.get_name(name, try_suffixes=_SUFFIXES)
        if found is None:
            raise ExportDiffers(f"tensor {name} has no name in GGUF, so it would be missing there")
        return found

    def rows_to_gguf(self, name: str, tensor: Tensor) -> Tensor:
        """Put the rows of a tensor into GGUF's order: first axis of a weight, of a bias or of a factor B."""
        heads = self._heads_of(name)
        if heads is None:
            return tensor
        rest = tensor.shape[1:]
        return tensor.reshape(heads, 2, -1, *rest).transpose(1, 2).reshape(tensor.shape)

    def rows_from_gguf(self, name: str, tensor: Tensor) -> Tensor:
        """Undo `rows_to_gguf`."""
        heads = self._heads_of(name)
        if heads is None:
            return tensor
        rest = tensor.shape[1:]
        return tensor.reshape(heads, -1, 2, *rest).transpose(1, 2).reshape(tensor.shape)

    def _heads_of(self, name: str) -> int | None:
        """Give the heads whose rows are to be reordered; None: the tensor's stay as they are."""
        if not self.architecture.gguf_pairs_rows:
            return None
        layer = name.removesuffix(".weight").removesuffix(".bias")
        if layer.endswith(f".{self.architecture.query}"):
            return self.heads
        return self.key_heads if layer.endswith(f".{self.architecture.key}") else None

    @cached_property
    def _map(self) -> gguf.TensorNameMap:
        known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(known[self.architecture.gguf], self.blocks)
