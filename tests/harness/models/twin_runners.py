"""A model twice, with the same requests and adapters, of which one records its decode steps: both must say the same."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.harness.models.random_adapters import place, place_random
from worker.inference.kv_cache.slots import KvSlot
from worker.inference.lora.adapter import Adapter
from worker.inference.model.contract import StepRow
from worker.inference.model.runner import ModelRunner

TOLERANCE = 2e-4  # of logits whose spread is about 1


@dataclass(eq=False)
class PairedRequest:
    """One request in both runners."""

    plain: KvSlot
    graphed: KvSlot
    adapter: Adapter | None
    ids: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(7, 250, 11)))

    def next_ids(self, count: int) -> list[int]:
        return list(itertools.islice(self.ids, count))


class Twins:
    """A model twice, with the same requests and adapters: one takes every step without graphs."""

    def __init__(self, plain: ModelRunner, graphed: ModelRunner) -> None:
        self.plain, self.graphed = plain, graphed
        self._numbers = itertools.count()

    def adapter(self, rank: int, *targets: str, has_dora: bool = False) -> Adapter:
        """Make a random adapter of the layers whose names end so, by default all, and place it."""
        return place_random((self.plain, self.graphed), next(self._numbers), rank, *targets, has_dora=has_dora)

    def place(self, adapter: Adapter) -> None:
        place((self.plain, self.graphed), adapter)

    def displace(self, adapter: Adapter) -> None:
        for each in (self.plain, self.graphed):
            each.bank.unpin(adapter)
            each.bank.drop(adapter.digest)

    def begin(self, adapter: Adapter | None = None, *, prompt: int = 4, room: int = 100) -> PairedRequest:
        plain, graphed = self.plain.kv.allocate(room), self.graphed.kv.allocate(room)
        assert plain is not None
        assert graphed is not None
        request = PairedRequest(plain, graphed, adapter)
        self.feed((request, prompt, 0))
        return request

    def end(self, request: PairedRequest) -> None:
        self.plain.kv.release(request.plain)
        self.graphed.kv.release(request.graphed)

    def feed(self, *fed: tuple[PairedRequest, int, int]) -> Tensor:
        """Feed each request so many tokens and want so many logits, from both runners alike; give the graphed one's."""
        parts = [(request, request.next_ids(tokens), wanted) for request, tokens, wanted in fed]
        expected = self.plain.forward([StepRow(r.plain, ids, r.adapter, wanted) for r, ids, wanted in parts])
        found = self.graphed.forward([StepRow(r.graphed, ids, r.adapter, wanted) for r, ids, wanted in parts])
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
        return found

    def step(self, *requests: PairedRequest) -> Tensor:
        return self.feed(*((request, 1, 1) for request in requests))


def run_mix(twins: Twins, turns: int) -> None:
    """Let requests of several adapters come and go, and step those that are there in any order."""
    rng = random.Random(5)
    adapters = [None, twins.adapter(8), twins.adapter(3), twins.adapter(16, "q_proj", "v_proj"), None]
    running: list[PairedRequest] = []
    for _ in range(turns):
        if len(running) < 7 and rng.random() < 0.3:
            running.append(twins.begin(rng.choice(adapters), prompt=rng.randint(1, 30)))
        if running and rng.random() < 0.15:
            twins.end(running.pop(rng.randrange(len(running))))
        if running:
            twins.step(*rng.sample(running, rng.choice([len(running), rng.randint(1, len(running))])))
