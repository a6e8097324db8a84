"""Decode steps that are recorded once and replayed: a GPU then gets a step's launches at once, not each from Python.

A decode step feeds each of its rows one token. One with a new key is recorded, and those with its key after it only
copy their numbers into the tensor that the recording reads. Which steps have a key, and what is fixed by one, is
decided here; what a step computes is the pass's matter. S are the slots of the step's arena.
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
from worker.inference.lora.step_columns import LoraPlan, LoraSegment
from worker.inference.model.contract import StepRow
from worker.inference.model.cuda_recorder import Recorder
from worker.inference.model.passes.forward_pass import Pass, StepLora
from worker.inference.model.step_layout import DecodeRows, Step

logger = logging.getLogger(__name__)

FEWEST_COLUMNS: Final = 32
# Each takes memory of the GPU. Together come a few numbers of slots, widths and ranges of columns, far from all that
# could.
MOST_GRAPHS: Final = 64
_NO_NUMBERS: Final = torch.empty(0, dtype=torch.int32)  # what only compiled kernels read
_NOBODY: Final = LoraPlan((), (), {}, _NO_NUMBERS, _NO_NUMBERS)


@dataclass(frozen=True)
class GraphKey:
    """What is fixed in a recording.

    Attributes:
        slots: of the arena, from the first; each feeds a token.
        width: positions up to which a slot's tokens are seen.
        columns: of the bank, from the first; 0 where no row has an adapter.
        arena_version, bank_version: of the tensors that it reads; those of the bank only where it has columns.
    """

    arena: Arena
    slots: int
    width: int
    columns: int
    arena_version: int
    bank_version: int


@dataclass(frozen=True)
class _Recorded:
    numbers_5S: Tensor
    replay: Callable[[], Tensor]


class DecodeGraphs:
    """The recordings of one pass, of which those replayed last are kept; used by the engine's thread.

    A step is recorded when the first with its key comes, which so takes a few times as long. Recorded ahead, most keys
    would never come, and all would be lost when their arena grows, which it does as requests come.
    """

    def __init__(self, way: Pass, bank: LoraBank, recorder: Recorder, device: torch.device) -> None:
        self._way = way
        self._bank = bank
        self._recorder: Recorder | None = recorder
        self._device = device
        self._recorded: OrderedDict[GraphKey, _Recorded] = OrderedDict()

    def forward(self, rows: Sequence[StepRow]) -> Tensor | None:
        """Give float32 logits_KV, as ``contract.Runner.forward`` does; None for a step that is to be taken without.

        The slots' lengths are left to the caller.
        """
        key = None if self._recorder is None else self._key_of(rows)
        if key is None:
            return None
        numbers_5S = self._numbers(key, rows)
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._record(key, numbers_5S)
            if recorded is None:
                return None
        else:
            self._recorded.move_to_end(key)
            recorded.numbers_5S.copy_(numbers_5S)
        # copied, since the next replay writes over it
        return recorded.replay()[: len(rows)].to(torch.float32, copy=True)

    def _key_of(self, rows: Sequence[StepRow]) -> GraphKey | None:
        arenas = {row.slot.arena for row in rows}
        if len(arenas) != 1 or not all(_is_replayable(row) for row in rows):
            return None
        [arena] = arenas
        slots = _round_up(max(row.slot.place for row in rows) + 1, 1, arena.capacity)
        if any(slot.length == arena.length for slot in arena.slots[:slots]):
            return None  # it has nowhere to put the token that it would feed
        columns = max((self._bank.columns_of(row.adapter).stop for row in rows if row.adapter is not None), default=0)
        return GraphKey(
            arena=arena,
            slots=slots,
            width=_round_up(max(row.slot.length for row in rows) + 1, SHORTEST, arena.length),
            columns=_round_up(columns, FEWEST_COLUMNS, self._bank.columns) if columns else 0,
            arena_version=arena.version,
            bank_version=self._bank.version if columns else 0,
        )

    def _numbers(self, key: GraphKey, rows: Sequence[StepRow]) -> Tensor:
        """Give int64 (5, S): each slot's token, its position, where its columns begin and end, and a wanted slot.

        A slot without a row feeds a token too, behind what it holds: its next token goes over it, and
        nobody sees it before.
        """
        ids, begins, ends, wanted = ([0] * key.slots for _ in range(4))
        held = [slot.length for slot in key.arena.slots[: key.slots]]
        for number, row in enumerate(rows):
            place = row.slot.place
            wanted[number] = place
            [ids[place]] = row.tokens
            if row.adapter is not None:
                columns = self._bank.columns_of(row.adapter)
                begins[place], ends[place] = columns.start, columns.stop
        positions = [*held, *[0] * (key.slots - len(held))]
        return torch.tensor([ids, positions, begins, ends, wanted])

    def _record(self, key: GraphKey, numbers_5S: Tensor) -> _Recorded | None:
        for other in [other for other in self._recorded if not self._is_valid(other)]:
            del self._recorded[other]
        if len(self._recorded) >= MOST_GRAPHS:
            self._recorded.popitem(last=False)
        assert self._recorder is not None, "nothing is recorded once it failed"
        numbers_5S = numbers_5S.to(self._device, copy=True)
        try:
            replay = self._recorder.record(lambda: self._compute(key, numbers_5S))
        except RuntimeError as reason:
            logger.warning("Decode steps are taken without graphs from now on: %s", reason, exc_info=reason)
            self._recorder = None
            self._recorded.clear()
            return None
        recorded = self._recorded[key] = _Recorded(numbers_5S, replay)
        return recorded

    def _is_valid(self, key: GraphKey) -> bool:
        """Tell whether the tensors that a recording reads are still the ones in use."""
        return key.arena_version == key.arena.version and key.bank_version in (0, self._bank.version)

    def _compute(self, key: GraphKey, numbers_5S: Tensor) -> Tensor:
        ids_S, positions_S, begins_S, ends_S, wanted_S = numbers_5S
        step = Step(
            ids_N=ids_S,
            positions_N=positions_S,
            decode=(_all_slots(key, positions_S),),
            chunks=(),
            wanted_K=wanted_S,
            spans=(),
            wanted_spans=(),
            is_wanted_whole=False,
        )
        if not key.columns:
            return self._way(step, StepLora(_NOBODY, _NOBODY))
        columns_R = torch.arange(key.columns, device=numbers_5S.device)
        uses_SR = (columns_R >= begins_S[:, None]) & (columns_R < ends_S[:, None])
        mask_SR = uses_SR.to(key.arena.keys[0].dtype)
        return self._way(step, StepLora(self._plan(mask_SR), self._plan(mask_SR[wanted_S])))

    def _plan(self, mask_NR: Tensor) -> LoraPlan:
        """Plan for whichever adapters come: every layer that has columns takes part."""
        tokens, columns = mask_NR.shape
        segment = LoraSegment(slice(0, tokens), slice(0, columns), mask_NR, is_shared=True)
        return LoraPlan((segment,), (), {}, _NO_NUMBERS, _NO_NUMBERS, self._bank.layers)


def _is_replayable(row: StepRow) -> bool:
    return len(row.tokens) == 1 and row.wanted == 1 and (row.adapter is None or not row.adapter.has_dora)


def _all_slots(key: GraphKey, positions_S: Tensor) -> DecodeRows:
    """Describe a step in which token number s is that of slot s."""
    device = positions_S.device
    mask_SP = torch.zeros(key.slots, key.width, device=device)
    mask_SP.masked_fill_(torch.arange(key.width, device=device) > positions_S[:, None], float("-inf"))
    return DecodeRows(
        arena=key.arena,
        begin=0,
        end=key.slots,
        slots_B=torch.arange(key.slots, device=device),
        positions_B=positions_S,
        cpu_slots_B=_NO_NUMBERS,
        cpu_lengths_B=_NO_NUMBERS,
        n_slots=key.slots,
        mask_SP=mask_SP,
    )


def _round_up(number: int, least: int, most: int) -> int:
    """Give the least that doubled some times is enough, but no more than ``most``."""
    size = least
    while size < number:
        size *= 2
    return min(size, most)
