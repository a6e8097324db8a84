"""One step's tokens side by side, and where each row's keys and values are: made once a step, read by every layer.

Short rows come first, in rounds: the first token of each, in the order of their slots, then the second of those that
have one, and so on, so that a layer attends for all tokens of a round at once. Then come long rows, each by itself.
Knows slots and tokens; what computes with them is the passes' matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inference.kv_cache.slots import Arena, KvSlot
from worker.inference.lora.step_columns import Span
from worker.inference.model.contract import StepRow


@dataclass(frozen=True)
class DecodeRows:
    """One token of each of some rows in one arena, in the order of their slots: ``begin`` to ``end`` of the step.

    Attributes:
        slots_B, positions_B: int64; where each row's slot is, and where its token goes in it.
        cpu_slots_B, cpu_lengths_B: the same as int32 on the CPU, for kernels.
        n_slots: slots from the first to the last of these rows; between them can be slots of rows that prefill.
        mask_SP: -inf at positions where a slot's row has no token, 0 elsewhere, float32.
    """

    arena: Arena
    begin: int
    end: int
    slots_B: Tensor
    positions_B: Tensor
    cpu_slots_B: Tensor
    cpu_lengths_B: Tensor
    n_slots: int
    mask_SP: Tensor

    @property
    def is_dense(self) -> bool:
        return self.n_slots == self.end - self.begin

    @property
    def width(self) -> int:
        """The longest row's tokens, the new one among them."""
        return self.mask_SP.shape[1]


@dataclass(frozen=True)
class PrefillChunk:
    """A row of several tokens: tokens ``begin`` to ``end`` of the step, behind ``past`` that its slot holds."""

    slot: KvSlot
    begin: int
    end: int
    past: int


@dataclass(frozen=True)
class Step:
    """All that the layers need to know of one step's N tokens, in the order described above.

    Attributes:
        decode: to be computed one after the other: a row's later tokens read its earlier ones' keys.
        wanted_K: the tokens whose logits are asked for, row by row as the caller gave them.
        spans: which adapter the tokens use, in their order.
        wanted_spans: which adapter those of ``wanted_K`` use.
        is_wanted_whole: each token's logits are asked for, in the tokens' own order.
    """

    ids_N: Tensor
    positions_N: Tensor
    decode: tuple[DecodeRows, ...]
    chunks: tuple[PrefillChunk, ...]
    wanted_K: Tensor
    spans: tuple[Span, ...]
    wanted_spans: tuple[Span, ...]
    is_wanted_whole: bool


def make_step(rows: Sequence[StepRow], device: torch.device, longest_shared: int) -> Step:
    """Lay out a step's tokens; rows of no more than ``longest_shared`` are short."""
    layout = _Layout(rows)
    short = sorted((row for row in rows if len(row.tokens) <= longest_shared), key=_place)
    decode: list[DecodeRows] = []
    for number in range(max((len(row.tokens) for row in short), default=0)):
        in_round = [row for row in short if len(row.tokens) > number]
        decode += _decode_rows([row.slot for row in in_round], number, len(layout.ids), device)
        for row in in_round:
            layout.put(row, number, number + 1)
    chunks = []
    for row in rows:
        if len(row.tokens) > longest_shared:
            begin = len(layout.ids)
            layout.put(row, 0, len(row.tokens))
            chunks.append(PrefillChunk(row.slot, begin, len(layout.ids), row.slot.length))
    wanted = layout.wanted()
    return Step(
        ids_N=torch.tensor(layout.ids, device=device),
        positions_N=torch.tensor(layout.positions, device=device),
        decode=tuple(decode),
        chunks=tuple(chunks),
        wanted_K=torch.tensor(wanted, dtype=torch.long, device=device),
        spans=tuple(layout.spans),
        wanted_spans=tuple(Span(row.wanted, row.adapter) for row in rows if row.wanted),
        is_wanted_whole=wanted == list(range(len(layout.ids))),
    )


class _Layout:
    """Tokens side by side as they are put there."""

    def __init__(self, rows: Sequence[StepRow]) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.spans: list[Span] = []
        self._rows = rows
        self._places: dict[int, list[int]] = {id(row): [] for row in rows}

    def put(self, row: StepRow, begin: int, end: int) -> None:
        self._places[id(row)] += range(len(self.ids), len(self.ids) + end - begin)
        self.ids += row.tokens[begin:end]
        self.positions += range(row.slot.length + begin, row.slot.length + end)
        self.spans.append(Span(end - begin, row.adapter))

    def wanted(self) -> list[int]:
        return [place for row in self._rows for place in self._places[id(row)][len(row.tokens) - row.wanted :]]


def _place(row: StepRow) -> tuple[int, int]:
    return row.slot.arena.length, row.slot.place


def _decode_rows(slots: Sequence[KvSlot], number: int, first: int, device: torch.device) -> list[DecodeRows]:
    """Describe a round: each slot's token behind ``number`` others of this step, the first being token ``first``."""
    rounds = []
    begin = 0
    while begin < len(slots):
        arena = slots[begin].arena
        end = begin
        while end < len(slots) and slots[end].arena is arena:
            end += 1
        places = [slot.place for slot in slots[begin:end]]
        lengths = [slot.length + number for slot in slots[begin:end]]
        n_slots, width = places[-1] + 1, max(lengths) + 1
        ends = torch.zeros(n_slots, 1)
        ends[places, 0] = torch.tensor(lengths, dtype=torch.float32) + 1
        mask_SP = torch.zeros(n_slots, width).masked_fill_(torch.arange(width) >= ends, float("-inf"))
        mask_SP[:, 0] = 0  # a slot that has no row here would else be all -inf, which softmax makes NaN
        rounds.append(
            DecodeRows(
                arena=arena,
                begin=first + begin,
                end=first + end,
                slots_B=torch.tensor(places, device=device),
                positions_B=torch.tensor(lengths, device=device),
                cpu_slots_B=torch.tensor(places, dtype=torch.int32),
                cpu_lengths_B=torch.tensor(lengths, dtype=torch.int32),
                n_slots=n_slots,
                mask_SP=mask_SP.to(device),
            )
        )
        begin = end
    return rounds
