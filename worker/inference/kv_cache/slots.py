"""The slot-based KV cache: keys and values of the running requests, each in one slot of one of a few fixed lengths.

A pool reserves all that a request can need before it starts, so none is ever preempted. Slots of one length lie in
one arena, the used ones first, so that decoding reads them as one tensor. What the tokens are is not known here.
Axis letters: L layers, S slots, G key-value heads, D head dimension, P positions of a slot, T tokens of a request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SHORTEST: Final = 128  # positions of a slot; the next lengths are twice as long each, up to the context


@dataclass(frozen=True)
class KvShape:
    """What a token's keys and values are in each of L layers: G heads of D numbers."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class KvSlot:
    """One request's part of the KV cache; its first ``length`` positions hold tokens.

    A slot's ``place`` in its arena changes when others are released, so it is read anew at each step.
    """

    def __init__(self, arena: "Arena", place: int) -> None:
        self.arena = arena
        self.place = place
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget the tokens from ``length`` on."""
        assert 0 <= length <= self.length, "only tokens that are cached can be forgotten"
        self.length = length


class Arena:
    """All slots of one length: per layer keys_SGDP, which decoding multiplies from the left, and values_SGPD.

    Attributes:
        version: changes when the tensors are made anew.
    """

    def __init__(self, shape: KvShape, length: int) -> None:
        self.length = length
        self.version = 0
        self.slots: list[KvSlot] = []
        self._shape = shape
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._make_tensors(0)

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[0]

    @property
    def slot_bytes(self) -> int:
        return self.length * self._shape.bytes_per_token

    def resize(self, capacity: int) -> None:
        """Allocate anew and keep the used slots; both exist for the time of the copy, one layer at a time."""
        assert capacity >= len(self.slots)
        self.version += 1
        used = len(self.slots)
        for layer in range(self._shape.layers):
            for kind in (self.keys, self.values):
                old = kind[layer]
                new = torch.zeros(capacity, *old.shape[1:], dtype=old.dtype, device=old.device)
                new[:used] = old[:used]
                kind[layer] = new

    def allocate(self) -> KvSlot:
        slot = KvSlot(self, len(self.slots))
        self.slots.append(slot)
        return slot

    def release(self, slot: KvSlot, *, wipe: bool) -> None:
        """Give a slot back; the last one moves to its place."""
        last = self.slots.pop()
        if wipe:
            for layer in (*self.keys, *self.values):
                layer[slot.place] = 0
        if last is slot:
            return
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[slot.place, ..., : last.length] = keys[last.place, ..., : last.length]
            values[slot.place, :, : last.length] = values[last.place, :, : last.length]
        self.slots[slot.place] = last
        last.place = slot.place

    def _make_tensors(self, capacity: int) -> None:
        shape = self._shape
        sizes = (shape.kv_heads, shape.head_dim, self.length), (shape.kv_heads, self.length, shape.head_dim)
        for kind, size in zip((self.keys, self.values), sizes, strict=True):
            kind[:] = [
                torch.zeros(capacity, *size, dtype=shape.dtype, device=shape.device) for _ in range(shape.layers)
            ]


class KvPool:
    """The KV cache of one model: slots within ``limit_bytes``.

    What is allocated for slots that nobody uses makes room when it is needed.
    """

    def __init__(self, shape: KvShape, limit_bytes: int, context_tokens: int) -> None:
        self.shape = shape
        self.limit_bytes = limit_bytes
        lengths = [SHORTEST]
        while lengths[-1] < context_tokens:
            lengths.append(2 * lengths[-1])
        lengths[-1] = context_tokens  # the last is no longer than a request can be
        self._arenas = {length: Arena(shape, length) for length in lengths}

    @property
    def longest(self) -> int:
        """Tokens of the longest slot: the context."""
        return max(self._arenas)

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that requests have."""
        return sum(len(arena.slots) * arena.slot_bytes for arena in self._arenas.values())

    @property
    def used_slots(self) -> int:
        return sum(len(arena.slots) for arena in self._arenas.values())

    def bytes_for(self, tokens: int) -> int:
        """Give what a request of at most so many tokens reserves."""
        return self._arena_for(tokens).slot_bytes

    def allocate(self, tokens: int) -> KvSlot | None:
        """Reserve a slot for at most so many tokens; None while there is no room for it."""
        arena = self._arena_for(tokens)
        if len(arena.slots) < arena.capacity:
            return arena.allocate()
        if self.used_bytes + arena.slot_bytes > self.limit_bytes:
            return None
        others = sum(other.capacity * other.slot_bytes for other in self._arenas.values() if other is not arena)
        grown = min(max(1, 2 * arena.capacity), (self.limit_bytes - others) // arena.slot_bytes)
        if grown <= arena.capacity:
            self.shrink(except_for=arena)
            grown = arena.capacity + 1
        arena.resize(grown)
        return arena.allocate()

    def release(self, slot: KvSlot, *, wipe: bool = False) -> None:
        """Give a slot back; ``wipe`` one that may hold values that are not finite: 0 times them is no 0."""
        slot.arena.release(slot, wipe=wipe)

    def read(self, slot: KvSlot, begin: int, end: int) -> Tensor:
        """Copy some tokens' keys and values out: kv_L2GTD, T from ``begin`` to ``end``."""
        arena = slot.arena
        keys = torch.stack([layer[slot.place, :, :, begin:end].transpose(1, 2) for layer in arena.keys])
        values = torch.stack([layer[slot.place, :, begin:end] for layer in arena.values])
        return torch.stack([keys, values], dim=1)

    def append(self, slot: KvSlot, blocks: Sequence[Tensor]) -> None:
        """Put what `read` gave behind the slot's tokens."""
        arena = slot.arena
        for block in blocks:
            end = slot.length + block.shape[3]
            for layer, (keys, values) in enumerate(zip(arena.keys, arena.values, strict=True)):
                keys[slot.place, :, :, slot.length : end] = block[layer, 0].transpose(1, 2)
                values[slot.place, :, slot.length : end] = block[layer, 1]
            slot.length = end

    def shrink(self, *, except_for: Arena | None = None) -> None:
        """Give up what is allocated for slots that nobody uses."""
        for arena in self._arenas.values():
            if arena is not except_for and arena.capacity > len(arena.slots):
                arena.resize(len(arena.slots))

    def _arena_for(self, tokens: int) -> Arena:
        return next(arena for length, arena in self._arenas.items() if tokens <= length)
