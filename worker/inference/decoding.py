"""Runs the model over a batch of rows that come and go: prefill, one token for each row, join, keep.

Axis letters: B rows, T cached tokens (padded on the left), V vocabulary. Knows tensors and adapters;
what a row is for, and when it ends, is the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from worker.inference.lora import Adapter, RowPlan


class _Layer(Protocol):
    """One layer's cached keys_BHTD and values_BHTD: H heads, D numbers each."""

    keys: Tensor
    values: Tensor


@dataclass
class Batch:
    """The cached state of B rows; row i holds ``lengths[i]`` tokens at the right end of the cache."""

    cache: DynamicCache
    lengths: list[int]
    adapters: list[Adapter | None]

    @property
    def width(self) -> int:
        """T: how many tokens the longest row has."""
        return max(self.lengths)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every other row, and the padding that no row needs any more; ``rows`` ascend."""
        if len(rows) == len(self.lengths):
            return
        cut = self.width
        self.lengths = [self.lengths[row] for row in rows]
        self.adapters = [self.adapters[row] for row in rows]
        cut -= self.width
        for layer in _layers(self.cache):
            index = torch.tensor(rows, device=layer.keys.device)
            layer.keys = layer.keys[index, :, cut:]
            layer.values = layer.values[index, :, cut:]

    def join(self, other: "Batch") -> None:
        """Append the rows of another batch, which must not be used afterwards."""
        missing, missing_other = max(other.width - self.width, 0), max(self.width - other.width, 0)
        for layer, other_layer in zip(_layers(self.cache), _layers(other.cache), strict=True):
            layer.keys = torch.cat([_pad(layer.keys, missing), _pad(other_layer.keys, missing_other)])
            layer.values = torch.cat([_pad(layer.values, missing), _pad(other_layer.values, missing_other)])
        self.lengths += other.lengths
        self.adapters += other.adapters


class Decoder:
    """The model's forwards; only one thread may use it, inside ``torch.inference_mode()``."""

    def __init__(self, model: PreTrainedModel, plan: RowPlan, *, vocab_size: int) -> None:
        self._model = model
        self._plan = plan
        self._vocab_size = vocab_size

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None]) -> tuple[Batch, Tensor]:
        """Feed prompts of any lengths, none empty; give their batch and logits_BV of the tokens that follow."""
        batch = Batch(DynamicCache(), [len(prompt) for prompt in prompts], list(adapters))
        padded = [[0] * (batch.width - len(prompt)) + list(prompt) for prompt in prompts]
        return batch, self._forward(batch, torch.tensor(padded, device=self._model.device))

    def step(self, batch: Batch, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each row; give logits_BV of the tokens that follow."""
        batch.lengths = [length + 1 for length in batch.lengths]
        return self._forward(batch, torch.tensor(tokens, device=self._model.device)[:, None])

    def _forward(self, batch: Batch, tokens_BT: Tensor) -> Tensor:
        """Feed the last tokens of each row and give float32 logits_BV, without the ids that no token has.

        Lengths 3 and 1 in a cache of width 3 make the mask [[1 1 1] [0 0 1]] and the positions
        [[0 1 2] [0 0 0]], of which the last tokens_BT.shape[1] are fed.
        """
        lengths_B1 = torch.tensor(batch.lengths, device=tokens_BT.device)[:, None]
        places_BT = torch.arange(batch.width, device=tokens_BT.device) - batch.width + lengths_B1
        self._plan.set(batch.adapters, tokens_BT.device)
        logits_BTV: Tensor = self._model(
            input_ids=tokens_BT,
            attention_mask=(places_BT >= 0).long(),
            position_ids=places_BT[:, -tokens_BT.shape[1] :].clamp(min=0),
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_BTV[:, -1, : self._vocab_size].float()


def _layers(cache: DynamicCache) -> list[_Layer]:
    # their types allow for layers that were never fed; a batch's are made by its prefill
    return cast(list[_Layer], cache.layers)


def _pad(cached_BHTD: Tensor, missing: int) -> Tensor:
    """Add ``missing`` tokens of zeros on the left of a layer's keys or values."""
    return pad(cached_BHTD, (0, 0, missing, 0)) if missing else cached_BHTD
