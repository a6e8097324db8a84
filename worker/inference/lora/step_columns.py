"""Which columns of the LoRA bank each token of one step uses: made once a step, used by every group of layers.

Short spans, such as decoding rows, share one product over all columns in use, of which a mask leaves each token its
own: few products instead of few columns. Long spans, parts of prompts, have a product of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from worker.inference.lora.adapter import Adapter

# Tokens up to which a row is short: its work in the shared product grows with the columns of all adapters, its launches
# do not; and attention goes token by token. Where nothing better is known of a machine.
LONGEST_SHARED: Final = 8


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of a step that use one adapter; None is the base model."""

    tokens: int
    adapter: Adapter | None


@dataclass(frozen=True)
class LoraSegment:
    """Neighbouring tokens of a step that share a product, and the columns that they use.

    ``mask_NR``, over these tokens and columns, is 1 where a token uses a column and 0 elsewhere; None: all use all.
    ``is_shared`` marks the segment of the short spans.
    """

    tokens: slice
    columns: slice
    mask_NR: Tensor | None
    is_shared: bool


@dataclass(frozen=True)
class LoraPlan:
    """One step's use of the bank.

    Attributes:
        segments: tokens outside them belong to the base model.
        dora: the tokens of DoRA adapters.
        begins, ranks: int32 per token of the short spans, for kernels that go token by token; rank 0 is the base model.
    """

    segments: tuple[LoraSegment, ...]
    dora: tuple[tuple[slice, Adapter], ...]
    biases: dict[str, Tensor]
    begins: Tensor
    ranks: Tensor
    layers: frozenset[str] = field(default=frozenset())

    def touches(self, names: Sequence[str]) -> bool:
        """Tell whether any adapter of the step changes one of these layers."""
        return not self.layers.isdisjoint(names)


def make_plan(
    spans: Sequence[Span], places: Mapping[str, slice], biases: dict[str, Tensor], longest_shared: int
) -> LoraPlan:
    """Plan a step whose tokens the spans cover in order; the first ones share a product as long as they are short."""
    segments: list[LoraSegment] = []
    dora: list[tuple[slice, Adapter]] = []
    shared: list[tuple[int, slice | None]] = []
    like: Tensor | None = None
    begin = 0
    for span in spans:
        columns = None if span.adapter is None else places[span.adapter.digest]
        tokens = slice(begin, begin + span.tokens)
        begin = tokens.stop
        if span.tokens <= longest_shared and tokens.start == sum(tokens for tokens, _ in shared):
            shared.append((span.tokens, columns))
        elif columns is not None:
            segments.append(LoraSegment(tokens, columns, None, is_shared=False))
        if span.adapter is not None:
            like = next(iter(span.adapter.pairs.values())).a_RI
            if span.adapter.has_dora:
                dora.append((tokens, span.adapter))
    if like is not None and any(columns is not None for _, columns in shared):
        segments.insert(0, _share(shared, like))
    begins, ranks = _per_token(shared)
    distinct = {span.adapter.digest: span.adapter for span in spans if span.adapter is not None}
    layers = frozenset().union(*(adapter.layers for adapter in distinct.values()))
    return LoraPlan(tuple(segments), tuple(dora), biases, begins, ranks, layers)


def _share(shared: Sequence[tuple[int, slice | None]], like: Tensor) -> LoraSegment:
    used = [columns for _, columns in shared if columns is not None]
    covered = slice(min(columns.start for columns in used), max(columns.stop for columns in used))
    mask = torch.zeros(sum(tokens for tokens, _ in shared), covered.stop - covered.start)
    begin = 0
    for tokens, columns in shared:
        if columns is not None:
            mask[begin : begin + tokens, columns.start - covered.start : columns.stop - covered.start] = 1
        begin += tokens
    mask_NR = None if bool(mask.all()) else mask.to(like.device, like.dtype)
    return LoraSegment(slice(0, begin), covered, mask_NR, is_shared=True)


def _per_token(shared: Sequence[tuple[int, slice | None]]) -> tuple[Tensor, Tensor]:
    begins = [0 if columns is None else columns.start for tokens, columns in shared for _ in range(tokens)]
    ranks = [
        0 if columns is None else columns.stop - columns.start for tokens, columns in shared for _ in range(tokens)
    ]
    return torch.tensor(begins, dtype=torch.int32), torch.tensor(ranks, dtype=torch.int32)
