"""Decode steps that are recorded once and replayed: a GPU then gets a step's launches at once, not each from Python.

A decode step feeds each of its rows one token. One of a new kind is recorded, and those of its kind after it only copy
their numbers into the tensor that the recording reads. Which steps have a kind, and what is fixed in one, is decided
here; what a step computes is the pass's matter. Axis letters: P places of an arena, else as in ``forward``.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.inference.kv_cache.slots import SHORTEST, Arena
from worker.inference.lora.bank import LoraBank
from worker.inference.lora.plan import Columns, LoraPlan
from worker.inference.model.contract import Row
from worker.inference.model.cuda_recorder import Recorder
from worker.inference.model.forward_pass import Pass, StepLora
from worker.inference.model.layout import DecodeRows, Step

logger = logging.getLogger(__name__)

FEWEST_COLUMNS: Final = 32
# Each takes memory of the GPU. Together come a few numbers of places, widths and ranges of columns, far from all that
# could.
MOST_GRAPHS: Final = 64
_NO_NUMBERS: Final = torch.empty(0, dtype=torch.int32)  # what only compiled kernels read
_NOBODY: Final = LoraPlan((), (), {}, _NO_NUMBERS, _NO_NUMBERS)


@dataclass(frozen=True)
class Kind:
    """What is fixed in a recording.

    Attributes:
        places: of the arena, from the first; each feeds a token.
        width: tokens up to which a place's tokens are seen.
        columns: of the bank, from the first; 0 where no row has an adapter.
        arena_version, bank_version: of the tensors that it reads; those of the bank only where it has columns.
    """

    arena: Arena
    places: int
    width: int
    columns: int
    arena_version: int
    bank_version: int


@dataclass(frozen=True)
class _Recorded:
    numbers_5P: Tensor
    replay: Callable[[], Tensor]


class DecodeGraphs:
    """The recordings of one pass, of which those replayed last are kept; used by the engine's thread.

    A kind is recorded when the first step of it comes, which so takes a few times as long. Recorded ahead, most kinds
    would never come, and all would be lost when their arena grows, which it does as requests come.
    """

    def __init__(self, way: Pass, bank: LoraBank, recorder: Recorder, device: torch.device) -> None:
        self._way = way
        self._bank = bank
        self._recorder: Recorder | None = recorder
        self._device = device
        self._recorded: OrderedDict[Kind, _Recorded] = OrderedDict()

    def forward(self, rows: Sequence[Row]) -> Tensor | None:
        """Give float32 logits_WV, as ``forward.Runner.forward`` does; None for a step that is to be taken without.

        The slots' lengths are left to the caller.
        """
        kind = None if self._recorder is None else self._kind_of(rows)
        if kind is None:
            return None
        numbers_5P = self._numbers(kind, rows)
        recorded = self._recorded.get(kind)
        if recorded is None:
            recorded = self._record(kind, numbers_5P)
            if recorded is None:
                return None
        else:
            self._recorded.move_to_end(kind)
            recorded.numbers_5P.copy_(numbers_5P)
        # copied, since the next replay writes over it
        return recorded.replay()[: len(rows)].to(torch.float32, copy=True)

    def _kind_of(self, rows: Sequence[Row]) -> Kind | None:
        arenas = {row.slot.arena for row in rows}
        if len(arenas) != 1 or not all(_is_replayable(row) for row in rows):
            return None
        [arena] = arenas
        places = _round_up(max(row.slot.place for row in rows) + 1, 1, arena.capacity)
        if any(slot.length == arena.length for slot in arena.slots[:places]):
            return None  # its place has nowhere to put the token that it would feed
        columns = max((self._bank.columns_of(row.adapter).stop for row in rows if row.adapter is not None), default=0)
        return Kind(
            arena=arena,
            places=places,
            width=_round_up(max(row.slot.length for row in rows) + 1, SHORTEST, arena.length),
            columns=_round_up(columns, FEWEST_COLUMNS, self._bank.columns) if columns else 0,
            arena_version=arena.version,
            bank_version=self._bank.version if columns else 0,
        )

    def _numbers(self, kind: Kind, rows: Sequence[Row]) -> Tensor:
        """Give int64 (5, P): each place's token, its position, where its columns begin and end, and a wanted place.

        A place without a row feeds a token too, behind what its slot holds: the slot's next token goes over it, and
        nobody sees it before.
        """
        ids, begins, ends, wanted = ([0] * kind.places for _ in range(4))
        held = [slot.length for slot in kind.arena.slots[: kind.places]]
        for number, row in enumerate(rows):
            place = row.slot.place
            wanted[number] = place
            [ids[place]] = row.tokens
            if row.adapter is not None:
                columns = self._bank.columns_of(row.adapter)
                begins[place], ends[place] = columns.start, columns.stop
        positions = [*held, *[0] * (kind.places - len(held))]
        return torch.tensor([ids, positions, begins, ends, wanted])

    def _record(self, kind: Kind, numbers_5P: Tensor) -> _Recorded | None:
        for other in [other for other in self._recorded if not self._is_valid(other)]:
            del self._recorded[other]
        if len(self._recorded) >= MOST_GRAPHS:
            self._recorded.popitem(last=False)
        assert self._recorder is not None, "nothing is recorded once it failed"
        numbers_5P = numbers_5P.to(self._device, copy=True)
        try:
            replay = self._recorder.record(lambda: self._compute(kind, numbers_5P))
        except RuntimeError as reason:
            logger.warning("Decode steps are taken without graphs from now on: %s", reason, exc_info=reason)
            self._recorder = None
            self._recorded.clear()
            return None
        recorded = self._recorded[kind] = _Recorded(numbers_5P, replay)
        return recorded

    def _is_valid(self, kind: Kind) -> bool:
        """Tell whether the tensors that a recording reads are still the ones in use."""
        return kind.arena_version == kind.arena.version and kind.bank_version in (0, self._bank.version)

    def _compute(self, kind: Kind, numbers_5P: Tensor) -> Tensor:
        ids_P, positions_P, begins_P, ends_P, wanted_P = numbers_5P
        step = Step(
            ids_N=ids_P,
            positions_N=positions_P,
            decode=(_all_places(kind, positions_P),),
            chunks=(),
            wanted_W=wanted_P,
            spans=(),
            wanted_spans=(),
            is_wanted_whole=False,
        )
        if not kind.columns:
            return self._way(step, StepLora(_NOBODY, _NOBODY))
        columns_R = torch.arange(kind.columns, device=numbers_5P.device)
        uses_PR = (columns_R >= begins_P[:, None]) & (columns_R < ends_P[:, None])
        mask_PR = uses_PR.to(kind.arena.keys[0].dtype)
        return self._way(step, StepLora(self._plan(mask_PR), self._plan(mask_PR[wanted_P])))

    def _plan(self, mask_NR: Tensor) -> LoraPlan:
        """Plan for whichever adapters come: every layer that has columns takes part."""
        tokens, columns = mask_NR.shape
        part = Columns(slice(0, tokens), slice(0, columns), mask_NR, is_shared=True)
        return LoraPlan((part,), (), {}, _NO_NUMBERS, _NO_NUMBERS, self._bank.layers)


def _is_replayable(row: Row) -> bool:
    return len(row.tokens) == 1 and row.wanted == 1 and (row.adapter is None or not row.adapter.is_stretched)


def _all_places(kind: Kind, positions_P: Tensor) -> DecodeRows:
    """Describe a step in which token number p is that of place p."""
    device = positions_P.device
    hidden_PL = torch.zeros(kind.places, kind.width, device=device)
    hidden_PL.masked_fill_(torch.arange(kind.width, device=device) > positions_P[:, None], float("-inf"))
    return DecodeRows(
        arena=kind.arena,
        begin=0,
        end=kind.places,
        places_B=torch.arange(kind.places, device=device),
        positions_B=positions_P,
        slots_B=_NO_NUMBERS,
        lengths_B=_NO_NUMBERS,
        n_places=kind.places,
        hidden_PL=hidden_PL,
    )


def _round_up(number: int, least: int, most: int) -> int:
    """Give the least that doubled some times is enough, but no more than ``most``."""
    size = least
    while size < number:
        size *= 2
    return min(size, most)
