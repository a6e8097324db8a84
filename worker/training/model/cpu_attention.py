"""Our own causal attention for a CPU, forward and backward, over segments of unequal length.

torch's CPU kernel takes four times as long backwards in bfloat16 as forwards. Here scores are float32 and all
other products are in the inputs' type, as in flash attention (Dao 2022, 2205.14135), from which the backward
formula is: with P = softmax(S) and dP = dO V', dS = P * (dP - rowsum(dO * O)). P is kept for segments of one tile;
for longer ones, where it would be large, backward computes it again. Knows nothing of models. M are
the padded rows, else the axes are those of ``worker.training.model.attention``.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from core.estimates.memory_plan import TILE_ROWS

ROWS_MULTIPLE = 16  # lengths are padded to it, so that segments of similar length share one product
TILE_BYTES = 4 * 2**20  # of float32 scores at a time; more would not stay in the cache between operations


@dataclass(frozen=True)
class _Group:
    """Segments of one padded length, one behind the other in the padded rows."""

    begin: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.begin, self.begin + self.count * self.length)


class PaddedSegments:
    """Where each input stands when segments are padded to a multiple of 16 and sorted by length.

    Padding stands behind a segment's inputs, so that no input looks at it.
    """

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        padded = [length + -length % ROWS_MULTIPLE for length in lengths]
        self.groups: list[_Group] = []
        begins: dict[int, int] = {}
        end = 0
        for length, count in sorted(Counter(padded).items()):
            self.groups.append(_Group(end, count, length))
            begins[length] = end
            end += count * length
        self.n_rows = end
        rows = []
        for length, width in zip(lengths, padded, strict=True):
            rows.append(torch.arange(begins[width], begins[width] + length))
            begins[width] += width
        self.rows_N = torch.cat(rows).to(device)

    def spread(self, values_NAD: Tensor) -> Tensor:
        """Give (M, A, D), zero where padding is."""
        spread_MAD = values_NAD.new_zeros(self.n_rows, *values_NAD.shape[1:])
        return spread_MAD.index_copy_(0, self.rows_N, values_NAD)

    def gather(self, values_MAD: Tensor) -> Tensor:
        """Undo `spread`."""
        return values_MAD.index_select(0, self.rows_N)


def own_attention(
    query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, segments: PaddedSegments
) -> Tensor:
    """Give causal attention inside each segment, (N, A, D)."""
    attended_NAD: Tensor = _OwnAttention.apply(query_NAD, key_NGD, value_NGD, scale, segments)  # type: ignore[no-untyped-call]
    return attended_NAD


# dP - delta is one product when delta stands in dO as further columns beside ones in V, as two of them so that in
# bfloat16 it keeps 16 bits: the difference is rounded once, not its parts.
_DELTAS = 2


def _with_delta(grad_NAD: Tensor, result_NAD: Tensor) -> Tensor:
    delta_NA1 = -(grad_NAD * result_NAD).sum(dim=2, keepdim=True, dtype=torch.float32)
    coarse_NA1 = delta_NA1.to(grad_NAD.dtype)
    return torch.cat([grad_NAD, coarse_NA1, (delta_NA1 - coarse_NA1).to(grad_NAD.dtype)], dim=2)


def _with_ones(value_NGD: Tensor) -> Tensor:
    return nn.functional.pad(value_NGD, (0, _DELTAS), value=1.0)


class _OwnAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, segments: PaddedSegments
    ) -> Tensor:
        query, key, value = (segments.spread(tensor) for tensor in (query_NAD, key_NGD, value_NGD))
        result_MAD = torch.empty_like(query)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for group in segments.groups:
                tiles = _GroupTiles(group, query, key, value, scale)
                for tile in tiles.split():
                    probs = tile.probs()
                    tiles.put(result_MAD, tile, torch.bmm(probs, tile.value))
                    if group.length <= TILE_ROWS:
                        kept.append(probs)
        result_NAD = segments.gather(result_MAD)
        ctx.save_for_backward(query_NAD, key_NGD, value_NGD, result_NAD, *kept)
        ctx.scale, ctx.segments = scale, segments
        return result_NAD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query_NAD, key_NGD, value_NGD, result_NAD, *kept = ctx.saved_tensors
        segments: PaddedSegments = ctx.segments
        grad_NAD = gradients[0]
        query, key = segments.spread(query_NAD), segments.spread(key_NGD)
        grad, value = segments.spread(_with_delta(grad_NAD, result_NAD)), segments.spread(_with_ones(value_NGD))
        query_grad, key_grad = torch.zeros_like(query), torch.zeros_like(key)
        value_grad = torch.zeros_like(key)
        with torch.autocast("cpu", enabled=False):
            for group in segments.groups:
                tiles = _GroupTiles(group, query, key, value, ctx.scale)
                for tile in tiles.split():
                    probs = kept.pop(0) if group.length <= TILE_ROWS else tile.probs()
                    grad_rows = tiles.take(grad, tile)
                    tiles.add(value_grad, tile, torch.bmm(probs.transpose(1, 2), grad_rows[..., :-_DELTAS]))
                    score_grad = torch.bmm(grad_rows, tile.value.transpose(1, 2)).mul_(probs)
                    tiles.put(query_grad, tile, torch.bmm(score_grad, tile.key).mul_(ctx.scale))
                    tiles.add(key_grad, tile, torch.bmm(score_grad.transpose(1, 2), tile.query).mul_(ctx.scale))
        return segments.gather(query_grad), segments.gather(key_grad), segments.gather(value_grad), None, None


@dataclass(frozen=True)
class _Tile:
    """Some query rows of some segments' key-value heads, and the keys that they may see.

    ``query`` is (segments * G, A/G * rows, D): the query heads of one key-value head stand behind each other.
    """

    segments: slice
    rows: slice
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float

    def probs(self) -> Tensor:
        """Give softmax of the scores, zero for keys behind a query, in the inputs' type."""
        scores = torch.bmm(self.query.float() * self.scale, self.key.float().transpose(1, 2))
        scores.unflatten(1, (-1, self.rows.stop - self.rows.start)).add_(_causal_mask(self.rows.start, self.rows.stop))
        return torch.softmax(scores, dim=2).to(self.query.dtype)


@lru_cache(maxsize=64)
def _causal_mask(begin: int, end: int) -> Tensor:
    """Give minus infinity for keys behind a query, of queries ``begin`` to ``end`` and keys 0 to ``end``."""
    return torch.full((end - begin, end), float("-inf")).triu_(begin + 1)


class _GroupTiles:
    """Cuts a group's attention into tiles whose scores fit in the cache."""

    def __init__(self, group: _Group, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        self._group, self._scale = group, scale
        self._heads, self._key_heads = query.shape[1], key.shape[1]
        self._query = self._of_group(query)
        self._key, self._value = self._by_key_head(key), self._by_key_head(value)

    def split(self) -> "list[_Tile]":
        length = self._group.length
        tiles = []
        for begin in range(0, length, TILE_ROWS):
            rows = slice(begin, min(length, begin + TILE_ROWS))
            bytes_per_segment = 4 * self._heads * (rows.stop - rows.start) * rows.stop
            at_once = max(1, TILE_BYTES // bytes_per_segment)
            for first in range(0, self._group.count, at_once):
                segments = slice(first, min(self._group.count, first + at_once))
                key, value = (tensor[segments, :, : rows.stop].flatten(0, 1) for tensor in (self._key, self._value))
                query = self._rows_of(self._query, segments, rows)
                tiles.append(_Tile(segments, rows, query, key, value, self._scale))
        return tiles

    def take(self, values_MAD: Tensor, tile: _Tile) -> Tensor:
        """Give the tile's rows of a tensor that has query heads, in the order of ``tile.query``."""
        return self._rows_of(self._of_group(values_MAD), tile.segments, tile.rows)

    def put(self, values_MAD: Tensor, tile: _Tile, rows: Tensor) -> None:
        """Write what `take` would read."""
        place = self._of_group(values_MAD)[tile.segments, tile.rows]
        count, n_rows = place.shape[:2]
        by_head = rows.view(count, self._heads, n_rows, rows.shape[2])
        place.copy_(by_head.transpose(1, 2))

    def add(self, values_MGD: Tensor, tile: _Tile, rows: Tensor) -> None:
        """Add to the keys' rows that the tile sees."""
        place = self._of_group(values_MGD)[tile.segments, : tile.rows.stop]
        by_head = rows.view(place.shape[0], self._key_heads, tile.rows.stop, rows.shape[2])
        place.add_(by_head.transpose(1, 2))

    def _of_group(self, values_MAD: Tensor) -> Tensor:
        return values_MAD[self._group.rows].view(self._group.count, self._group.length, *values_MAD.shape[1:])

    def _by_key_head(self, values_MGD: Tensor) -> Tensor:
        return self._of_group(values_MGD).transpose(1, 2).contiguous()

    def _rows_of(self, values_BTAD: Tensor, segments: slice, rows: slice) -> Tensor:
        chosen_BATD = values_BTAD[segments, rows].transpose(1, 2)
        return chosen_BATD.reshape(chosen_BATD.shape[0] * self._key_heads, -1, chosen_BATD.shape[3])
