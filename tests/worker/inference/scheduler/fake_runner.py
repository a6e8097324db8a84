"""A runner whose model is a few lines: what follows a text is computed from all that its slot holds, in a real KvPool.

So a token that a slot lost, kept, or got from another text or adapter changes the answer. Records what it was fed.
"""

import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.inference.kv_cache.slots import KvPool, KvShape, KvSlot
from worker.inference.lora.adapter import Adapter, LoraPair
from worker.inference.lora.bank import LoraBank, LoraGroup
from worker.inference.model.contract import ModelSize, StepRow, TargetLayer
from worker.inference.model.step_timer import StepTimer

CONTEXT_TOKENS: Final = 256
SHAPE: Final = KvShape(layers=2, kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"))
LAYER: Final = "layer"
WIDTH: Final = 8
BYTE_IDS: Final = 128  # answers are of ASCII bytes: one character a token


class FakeRunner:
    """Implements ``contract.Runner``.

    Attributes:
        fed: of each forward, the tokens and the wanted logits of each row.
        failures: forwards that are to raise.
        poisoned: digests of adapters whose logits are not finite; None is the base model.
        gate: what a forward waits for; ``reached`` tells that one does.
        ends_after: the token after which the model closes its answer.
    """

    def __init__(
        self, *, states: int = 2**48, kv_slots: int = 64, columns: int = 64, groups: int = 1, vocab_size: int
    ) -> None:
        self.kv = KvPool(SHAPE, kv_slots * 128 * SHAPE.bytes_per_token, CONTEXT_TOKENS)
        self.bank = LoraBank([LoraGroup([LAYER], WIDTH, [WIDTH]) for _ in range(groups)], columns, {})
        self.size = ModelSize(weight_bytes=4 * WIDTH**2, block_weights=WIDTH**2, head_weights=0)
        self.timer = StepTimer(SHAPE.device)
        self.layers = {LAYER: TargetLayer(WIDTH, WIDTH)}
        self.longest_shared = 1
        self.fed: list[list[tuple[tuple[int, ...], int]]] = []
        self.failures = 0
        self.poisoned: set[str | None] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.ends_after: int | None = None
        self.end_id = vocab_size - 3
        self._states = states  # of a text, on which its next token depends: with few it soon repeats itself
        self._vocab_size = vocab_size

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        self.fed.append([(tuple(row.tokens), row.wanted) for row in rows])
        self.reached.set()
        assert self.gate.wait(timeout=60)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("injected")
        logits = [logits_V for row in rows for logits_V in self._feed(row)]
        return torch.stack(logits) if logits else torch.zeros(0, self._vocab_size)

    def weight_of(self, name: str) -> Tensor:
        return torch.zeros(WIDTH, WIDTH)

    def _feed(self, row: StepRow) -> list[Tensor]:
        assert row.adapter is None or self.bank.is_ready(row.adapter), "only adapters that are ready are fed"
        mark = _mark(row.adapter)
        for token_id in row.tokens:
            _write(row.slot, mark + token_id)
        return [self._logits(row, row.slot.length - behind) for behind in range(row.wanted - 1, -1, -1)]

    def _logits(self, row: StepRow, length: int) -> Tensor:
        if (row.adapter.digest if row.adapter else None) in self.poisoned:
            return torch.full((self._vocab_size,), torch.nan)
        held = read_slot(row.slot)[:length]
        if self.ends_after is not None and held[-1] % 1000 == self.ends_after:
            return torch.nn.functional.one_hot(torch.tensor(self.end_id), self._vocab_size).float()
        # whichever adapter wrote a token counts, and whichever reads it
        state = functools.reduce(self._next_state, held, _mark(row.adapter))
        generator = torch.Generator().manual_seed(state)
        logits_V = torch.full((self._vocab_size,), -30.0)
        logits_V[32:BYTE_IDS] = torch.randn(BYTE_IDS - 32, generator=generator)
        return logits_V

    def _next_state(self, state: int, number: int) -> int:
        return (31 * state + number) % self._states


def make_adapter(name: str, tokenizer: TextTokenizer, *, rank: int = 8) -> Adapter:
    pair = LoraPair(torch.ones(rank, WIDTH), torch.ones(rank, WIDTH))
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Adapter(digest=digest, pairs={LAYER: pair}, renderer=Renderer(tokenizer), bytes=pair.bytes)


def read_slot(slot: KvSlot) -> list[int]:
    """Give what was written into a slot, the same in all layers and in keys and values alike."""
    arena = slot.arena
    kinds = [keys[slot.place, 0, 0] for keys in arena.keys] + [values[slot.place, 0, :, 0] for values in arena.values]
    texts = [kind[: slot.length].tolist() for kind in kinds]
    assert all(text == texts[0] for text in texts)
    return [int(number) for number in texts[0]]


def _write(slot: KvSlot, number: int) -> None:
    for keys, values in zip(slot.arena.keys, slot.arena.values, strict=True):
        keys[slot.place, 0, :, slot.length] = number
        values[slot.place, 0, slot.length] = number
    slot.length += 1


def _mark(adapter: Adapter | None) -> int:
    return 0 if adapter is None else 1000 * (1 + int(adapter.digest[:2], 16))
