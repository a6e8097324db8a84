"""The prefix cache: keys and values of prompts that were computed, for prompts that begin alike.

In blocks of 16 tokens, each under a hash of all that it depends on: who asked, the adapter, and every token up to
its end. So what one caller or adapter left is never found by another. Knows nothing of requests; engine thread only.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from worker.inference.kv_cache.slots import KvPool, KvSlot

BLOCK_TOKENS: Final = 16


@dataclass(frozen=True)
class _Block:
    kv: Tensor  # as `KvPool.read` gives it
    adapter: str | None


class PrefixCache:
    """At most ``limit_bytes`` of blocks, the least recently used leave first; 0 bytes keep nothing."""

    def __init__(self, kv: KvPool, limit_bytes: int) -> None:
        self._kv = kv
        self._limit_bytes = limit_bytes
        self._block_bytes = BLOCK_TOKENS * kv.shape.bytes_per_token
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()  # least recently used first

    @property
    def used_bytes(self) -> int:
        return len(self._blocks) * self._block_bytes

    def fill(self, slot: KvSlot, caller: str, adapter: str | None, prompt_ids: Sequence[int]) -> int:
        """Put what is known of a prompt's beginning into an empty slot; give how many tokens that is.

        The prompt's last token is never among them: the logits that follow it have to be computed.
        """
        hits: list[bytes] = []
        if self._blocks:
            for key in islice(_keys(caller, adapter, prompt_ids), (len(prompt_ids) - 1) // BLOCK_TOKENS):
                if key not in self._blocks:
                    break
                hits.append(key)
        self._kv.append(slot, [self._blocks[key].kv for key in hits])
        self._touch(hits)
        return len(hits) * BLOCK_TOKENS

    def store(self, slot: KvSlot, caller: str, adapter: str | None, prompt_ids: Sequence[int]) -> None:
        """Keep a prompt that stands at the slot's beginning, as far as it is whole blocks that are not kept yet."""
        keys = list(islice(_keys(caller, adapter, prompt_ids), self._limit_bytes // self._block_bytes))
        new = next((number for number, key in enumerate(keys) if key not in self._blocks), len(keys))
        if new < len(keys):
            kv = self._kv.read(slot, new * BLOCK_TOKENS, len(keys) * BLOCK_TOKENS)
            for key, block in zip(keys[new:], kv.split(BLOCK_TOKENS, dim=3), strict=True):
                # a copy: a part of `kv` would keep all of it in memory
                self._blocks[key] = _Block(block.clone(memory_format=torch.contiguous_format), adapter)
        self._touch(keys)
        while self.used_bytes > self._limit_bytes:
            self._blocks.popitem(last=False)

    def drop(self, adapter: str) -> None:
        """Forget all prompts of an adapter."""
        for key in [key for key, block in self._blocks.items() if block.adapter == adapter]:
            del self._blocks[key]

    def _touch(self, keys: Sequence[bytes]) -> None:
        # the first block last: without it the ones behind cannot be found, so they have to leave before it
        for key in reversed(keys):
            self._blocks.move_to_end(key)


def _keys(caller: str, adapter: str | None, prompt_ids: Sequence[int]) -> Iterator[bytes]:
    """Give the key of each whole block of a prompt."""
    whose = caller.encode()
    chain = hashlib.sha256(len(whose).to_bytes(8, "little") + whose + (adapter or "base").encode()).digest()
    for begin in range(0, len(prompt_ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        tokens = array("q", prompt_ids[begin : begin + BLOCK_TOKENS])
        chain = hashlib.sha256(chain + tokens.tobytes()).digest()
        yield chain
