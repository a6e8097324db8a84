"""What a base model is made of, read from its config and the headers of its weight files; no weight is loaded.

Names, shapes and what follows from them. What they cost in memory and time is ``core.estimates.memory_plan`` and
``core.estimates.estimate``.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from core.base_models.architectures.architecture import Input, last_part
from core.base_models.architectures.table import find_architecture, find_input, is_gate
from core.base_models.registry import read_config, weight_files
from core.base_models.tensor_files import StoredTensor, list_tensors
from core.errors import BaseModelInvalid, TargetModulesUnmatched
from core.jobs.spec import LoraSpec

_BLOCK: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_HEADS: Final = ("lm_head.weight", "model.embed_tokens.weight")  # the second where they are tied


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer of a block: its name in the model, the width it reads and the width it gives."""

    name: str
    inputs: int
    outputs: int

    @property
    def reads(self) -> Input:
        reads = find_input(self.name)
        assert reads is not None, "a shape is read of known layers only"
        return reads


@dataclass(frozen=True)
class ModelShape:
    """A decoder of equal blocks under one head.

    Attributes:
        parameters: all values of the stored tensors; ``stored_bytes`` is what they take in the files.
        heads: query heads of one block's attention.
        norms: of one block; with a single one, attention and MLP read the same, as in Phi.
        has_rms_norm: such a norm computes in float32 and keeps its input so.
        is_gated: the MLP multiplies two projections, as in Llama.
        rotates_partly: only a part of each head is rotated, after which attention's result is copied once.
        has_own_blocks: the trainer computes these blocks itself, and keeps less of them.
    """

    parameters: int
    stored_bytes: int
    blocks: int
    heads: int
    hidden_width: int
    vocab_rows: int
    linear_layers: tuple[LinearLayer, ...]
    norms: int
    has_rms_norm: bool
    is_gated: bool
    rotates_partly: bool
    has_own_blocks: bool

    @cached_property
    def linear_parameters(self) -> int:
        return sum(layer.inputs * layer.outputs for layer in self.linear_layers)

    def adapted(self, lora: LoraSpec) -> tuple[LinearLayer, ...]:
        """List the layers that get an adapter.

        Raises:
            TargetModulesUnmatched: a name matches none.
        """
        targets = resolve_targets((layer.name for layer in self.linear_layers), lora.target_modules)
        return tuple(layer for layer in self.linear_layers if matches_any(layer.name, targets))


def read_shape(folder: Path) -> ModelShape:
    """Read an imported base model's shape, milliseconds for some hundred tensors.

    Raises:
        BaseModelInvalid: a file is missing or malformed, or the architecture is not one that is known here.
    """
    config = read_config(folder)
    tensors = [tensor for path in weight_files(folder) for tensor in list_tensors(path)]
    by_name = {tensor.name: tensor for tensor in tensors}
    head = next((by_name[name] for name in _HEADS if name in by_name), None)
    linear = tuple(_linear_layers(tensors))
    unknown = sorted({last_part(layer.name) for layer in linear if find_input(layer.name) is None})
    if head is None or len(head.shape) != 2 or not linear or unknown:
        kind = config.get("model_type", "unknown")
        named = f", such as {unknown[0]}," if unknown else ""
        raise BaseModelInvalid(f"memory and time are not known for the layers{named} of the architecture {kind!r}")
    numbers = {name: block[1] for name in by_name if (block := _BLOCK.search(name))}
    first = [name for name, number in numbers.items() if number == "0"]
    norms = [name for name in first if name.endswith("norm.weight") and by_name[name].shape == head.shape[1:]]
    rope = config.get("rope_parameters") or {}
    return ModelShape(
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        stored_bytes=sum(tensor.bytes for tensor in tensors),
        blocks=len(set(numbers.values())),
        heads=int(config.get("num_attention_heads") or 0),
        hidden_width=head.shape[1],
        vocab_rows=head.shape[0],
        linear_layers=linear,
        norms=len(norms),
        has_rms_norm=not any(name.replace(".weight", ".bias") in by_name for name in norms),
        is_gated=any(is_gate(layer.name) for layer in linear),
        rotates_partly=(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) < 1,
        has_own_blocks=find_architecture(config) is not None,
    )


def resolve_targets(linear: Iterable[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the names under which LoRA is put into a base model; ``wanted`` None means every linear layer.

    Args:
        linear: full names of the base model's linear layers beside the head.

    Raises:
        TargetModulesUnmatched: a name matches no linear layer, or means the head.
    """
    names = set(linear)
    last_parts = sorted({last_part(name) for name in names})
    if wanted is None:
        return tuple(last_parts)
    unmatched = [target for target in wanted if not any(matches_any(name, (target,)) for name in names)]
    if unmatched:
        raise TargetModulesUnmatched(
            f"target_modules {', '.join(unmatched)}: no linear layer beside the head has this name; "
            f"this base model has {', '.join(last_parts)}"
        )
    return tuple(sorted(wanted))


def matches_any(name: str, targets: Iterable[str]) -> bool:
    """Tell whether a layer is meant by one of the targets, by PEFT's rule: its whole name, or the last parts of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _linear_layers(tensors: Iterable[StoredTensor]) -> Iterable[LinearLayer]:
    for tensor in tensors:
        if len(tensor.shape) == 2 and tensor.name.endswith(".weight") and _BLOCK.search(tensor.name):
            outputs, inputs = tensor.shape
            yield LinearLayer(tensor.name.removesuffix(".weight"), inputs, outputs)
