"""One step's tokens side by side, and where each row's keys and values are: made once a step, read by every layer.

Rows of one token come first, in the order of their slots, so that a layer attends for all of them at once; then
longer rows, each by itself. Knows slots and tokens; what computes with them is the passes' matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inference.forward import Row
from worker.inference.kv import Arena, Slot


@dataclass(frozen=True)
class DecodeRows:
    """Rows of one token in one arena, in the order of their places: tokens ``begin`` to ``end`` of the step.

    Attributes:
        places_B, positions_B: int64; where each row's slot is, and where its token goes in it.
        slots_B, lengths_B: the same as int32 on the CPU, for kernels.
        n_places: slots from the first to the last of these rows; between them can be slots of rows that prefill.
        hidden_PL: -inf where a place's row has no token, 0 elsewhere, float32.
    """

    arena: Arena
    begin: int
    end: int
    places_B: Tensor
    positions_B: Tensor
    slots_B: Tensor
    lengths_B: Tensor
    n_places: int
    hidden_PL: Tensor

    @property
    def is_dense(self) -> bool:
        return self.n_places == self.end - self.begin

    @property
    def width(self) -> int:
        """The longest row's tokens, the new one among them."""
        return self.hidden_PL.shape[1]


@dataclass(frozen=True)
class Chunk:
    """A row of several tokens: tokens ``begin`` to ``end`` of the step, behind ``past`` that its slot holds."""

    slot: Slot
    begin: int
    end: int
    past: int


@dataclass(frozen=True)
class Step:
    """All that the layers need to know of one step; the N tokens are in the order described above.

    ``wanted_W`` are the tokens whose logits are asked for.
    """

    ids_N: Tensor
    positions_N: Tensor
    decode: tuple[DecodeRows, ...]
    chunks: tuple[Chunk, ...]
    wanted_W: Tensor


def arrange(rows: Sequence[Row]) -> list[int]:
    """Give the order in which the rows stand side by side."""
    return sorted(range(len(rows)), key=lambda number: _rank(rows[number]))


def make_step(rows: Sequence[Row], device: torch.device) -> Step:
    """Lay out a step's tokens; the rows are in `arrange`'s order."""
    ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    chunks: list[Chunk] = []
    for row in rows:
        begin, past = len(ids), row.slot.length
        ids += row.tokens
        positions += range(past, past + len(row.tokens))
        wanted += range(len(ids) - row.wanted, len(ids))
        if len(row.tokens) > 1:
            chunks.append(Chunk(row.slot, begin, len(ids), past))
    return Step(
        ids_N=torch.tensor(ids, device=device),
        positions_N=torch.tensor(positions, device=device),
        decode=_decode_rows([row.slot for row in rows if len(row.tokens) == 1], device),
        chunks=tuple(chunks),
        wanted_W=torch.tensor(wanted, dtype=torch.long, device=device),
    )


def _rank(row: Row) -> tuple[int, int, int]:
    is_single = len(row.tokens) == 1
    return (len(row.tokens), row.slot.arena.length if is_single else 0, row.slot.place)


def _decode_rows(slots: Sequence[Slot], device: torch.device) -> tuple[DecodeRows, ...]:
    found = []
    begin = 0
    while begin < len(slots):
        arena = slots[begin].arena
        end = begin
        while end < len(slots) and slots[end].arena is arena:
            end += 1
        places = [slot.place for slot in slots[begin:end]]
        lengths = [slot.length for slot in slots[begin:end]]
        n_places, width = places[-1] + 1, max(lengths) + 1
        ends = torch.zeros(n_places, 1)
        ends[places, 0] = torch.tensor(lengths, dtype=torch.float32) + 1
        hidden_PL = torch.zeros(n_places, width).masked_fill_(torch.arange(width) >= ends, float("-inf"))
        hidden_PL[:, 0] = 0  # a place that has no row here would else be all -inf, which softmax makes NaN
        found.append(
            DecodeRows(
                arena=arena,
                begin=begin,
                end=end,
                places_B=torch.tensor(places, device=device),
                positions_B=torch.tensor(lengths, device=device),
                slots_B=torch.tensor(places, dtype=torch.int32),
                lengths_B=torch.tensor(lengths, dtype=torch.int32),
                n_places=n_places,
                hidden_PL=hidden_PL.to(device),
            )
        )
        begin = end
    return tuple(found)
