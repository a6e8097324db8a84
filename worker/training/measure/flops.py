"""How many floating-point operations LoRA training needs; what a machine computes beyond them is no progress.

Counted from the model's own weights, product by product. Not counted are padding, norms and activation functions.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from torch import nn

from core.base_models.architectures.architecture import Input
from core.base_models.architectures.table import find_input
from worker.training.data.examples import ExampleSet
from worker.training.model.lora import LoraModel

_BLOCK: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BASE_LAYER: Final = ".base_layer"  # under which PEFT keeps a layer that has an adapter
# Which linear layers of the same block lie before one; where one norm serves both, attention and MLP are parallel.
_BEFORE: Final[dict[Input, tuple[Input, ...]]] = {
    "attention": (),
    "attention_output": ("attention",),
    "mlp": ("attention", "attention_output"),
    "mlp_output": ("attention", "attention_output", "mlp"),
}
_BEFORE_IN_PARALLEL: Final[dict[Input, tuple[Input, ...]]] = _BEFORE | {"mlp": (), "mlp_output": ("mlp",)}
_KEYS_AND_VALUES: Final = ("k_proj", "v_proj", "qkv_proj")  # what the last block computes for every input


@dataclass(frozen=True)
class Amounts:
    """What examples ask of the model. A pair is an input and one that it looks at, itself included."""

    inputs: int
    pairs: int
    scored: int
    scored_pairs: int  # of the inputs whose next token is scored

    @classmethod
    def of(cls, examples: ExampleSet, members: Iterable[int]) -> "Amounts":
        """Add up examples; an example's inputs end before its last scored token.

        With weights 0 0 1 1 the inputs are 3, the pairs 1 + 2 + 3, and of those 2 + 3 belong to scored tokens.
        """
        inputs = pairs = scored = scored_pairs = 0
        for member in members:
            places = np.flatnonzero(examples[member].weights_T)
            length = int(places[-1])
            inputs += length
            pairs += length * (length + 1) // 2
            scored += len(places)
            scored_pairs += int(places.sum())  # token t is predicted by the t-th input, which looks at t of them
        return cls(inputs, pairs, scored, scored_pairs)


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of a forward and a backward pass, per unit of each of the `Amounts`.

    The head reads only what is scored, so all of the last block but its keys and values is needed only there.
    """

    per_input: int
    per_pair: int
    per_scored: int
    per_scored_pair: int

    def of(self, amounts: Amounts) -> int:
        return (
            self.per_input * amounts.inputs
            + self.per_pair * amounts.pairs
            + self.per_scored * amounts.scored
            + self.per_scored_pair * amounts.scored_pairs
        )


def count_flops(model: LoraModel) -> TrainingFlops | None:
    """Count a model's products: two operations a weight forward, and two backward to what the layer read.

    None for an architecture that names its blocks otherwise than ``layers.<n>``.

    A frozen weight has no gradient of its own; an adapter's two matrices have, which costs as much again.
    Nothing goes back beyond the first adapter. Attention's two products have up to four backward. A block that
    is checkpointed, because memory is short, goes forward twice.
    """
    blocks = _blocks_of(model)
    adapted = [number for number, block in blocks.items() if any(layer.rank for layer in block.layers)]
    if not adapted:
        return None
    first_adapted = min(adapted)
    last = max(blocks)
    per_input = per_pair = per_scored = per_scored_pair = 0
    for number, block in blocks.items():
        forwards = 2 if number < model.decoder_pass.checkpointed_blocks else 1
        for layer in block.layers:
            flops = layer.flops(forwards, goes_back=number > first_adapted or block.adapted_before(layer.reads))
            if number == last and not layer.name.endswith(_KEYS_AND_VALUES):
                per_scored += flops
            else:
                per_input += flops
        products = 2 * forwards + block.attention_products_back(number > first_adapted)
        attention = 2 * block.attention_width * products
        if number == last:
            per_scored_pair += attention
        else:
            per_pair += attention
    return TrainingFlops(per_input, per_pair, per_scored + 4 * model.head.weight.numel(), per_scored_pair)


def frozen_linear_layers(model: LoraModel) -> dict[str, nn.Linear]:
    """Give the base's linear layers of all blocks by the base's own names, without what PEFT puts around them."""
    return {
        name.removesuffix(_BASE_LAYER): module
        for name, module in model.peft.named_modules()
        if isinstance(module, nn.Linear) and _BLOCK.search(name) and not module.weight.requires_grad
    }


@dataclass(frozen=True)
class _LinearLayer:
    name: str
    inputs: int
    outputs: int
    rank: int  # of its adapter; 0: none

    @property
    def reads(self) -> Input | None:
        return find_input(self.name)

    def flops(self, forwards: int, *, goes_back: bool) -> int:
        """Give the operations of one token; ``goes_back``: what the layer reads has a gradient."""
        frozen = 2 * self.inputs * self.outputs * (forwards + goes_back)
        narrow = 2 * self.rank * self.inputs * (forwards + 1 + goes_back)
        wide = 2 * self.rank * self.outputs * (forwards + 2)
        return frozen + narrow + wide


@dataclass
class _BlockLayers:
    layers: list[_LinearLayer] = field(default_factory=list)
    norms: int = 0

    def adapted_before(self, reads: Input | None) -> bool:
        """Tell whether an adapter of this block lies before a layer; for an unknown one, that it does."""
        if reads is None:
            return True
        before = (_BEFORE_IN_PARALLEL if self.norms == 1 else _BEFORE)[reads]
        return any(layer.rank and layer.reads in before for layer in self.layers)

    def attention_products_back(self, goes_back: bool) -> int:
        """Count backward's products: one each for queries, keys and values, and one for the weights of the first two.

        Args:
            goes_back: what the block reads has a gradient, so that all three do.
        """
        parts = [layer.name.rpartition(".")[2] for layer in self.layers if layer.rank and layer.reads == "attention"]
        if goes_back or "qkv_proj" in parts:
            return 4
        return len(parts) + any(part in ("q_proj", "k_proj") for part in parts)

    @property
    def attention_width(self) -> int:
        """Numbers of all query heads together; 0 where the architecture's names are not known."""
        return next((layer.inputs for layer in self.layers if layer.reads == "attention_output"), 0)


def _blocks_of(model: LoraModel) -> dict[int, _BlockLayers]:
    ranks = {
        name.removesuffix(".lora_A.weight"): len(parameter)
        for name, parameter in model.parameters.items()
        if name.endswith(".lora_A.weight")
    }
    blocks: dict[int, _BlockLayers] = defaultdict(_BlockLayers)
    for name, layer in frozen_linear_layers(model).items():
        block = blocks[_block_number(name)]
        block.layers.append(_LinearLayer(name, layer.in_features, layer.out_features, ranks.get(name, 0)))
    for name, parameter in model.peft.named_parameters():
        if _BLOCK.search(name) and name.endswith("norm.weight") and len(parameter) == model.head.in_features:
            blocks[_block_number(name)].norms += 1
    return blocks


def _block_number(name: str) -> int:
    match = _BLOCK.search(name)
    assert match is not None
    return int(match[1])
