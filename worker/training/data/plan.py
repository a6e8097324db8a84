"""Which examples make a step, in which order, and how a step is cut into micro-batches.

Pure arithmetic on lengths and a counter-based random order: it has no state, so a resumed run
plans what the uninterrupted one would have. Knows no tensors and no text.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from core.estimates.estimate import evaluated_after
from core.jobs.spec import EVALUATIONS

PLAN_VERSION = 2  # a checkpoint of another version is not resumed

# What one more forward and backward costs beside its tokens, in tokens: reading all weights again
# and some hundred small operations. Cutting a step finer than this saves less padding than it costs.
MICRO_BATCH_COST_TOKENS = 48

_GOLDEN = 0x9E3779B97F4A7C15


def _splitmix64(counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash each counter; the constants are those of Steele, Lea and Flood 2014. Arrays wrap at 64 bits."""
    state = counters + np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def mix(*counters: int) -> int:
    """Hash non-negative integers, in their order, to 64 random-looking bits."""
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _splitmix64(state + np.array([counter], dtype=np.uint64))
    return int(state[0])


@lru_cache(maxsize=1)  # every step of an epoch asks for it
def epoch_order(seed: int, epoch: int, n_examples: int) -> npt.NDArray[np.int64]:
    """Give the permutation of the examples for an epoch; the same on every machine and numpy."""
    keys = _splitmix64(np.uint64(mix(seed, epoch)) ^ _splitmix64(np.arange(n_examples, dtype=np.uint64)))
    return np.argsort(keys, kind="stable").astype(np.int64)


def pack(lengths: Sequence[int], token_budget: int, *, ranks: int = 1) -> list[list[int]]:
    """Share a step's examples out over the fewest micro-batches that the budget allows, all about equally long.

    Longest first, each to the shortest micro-batch so far. Gives positions in ``lengths``; an example over the
    budget is alone. The number of micro-batches is a multiple of ``ranks`` where there are examples enough.

    With lengths 10, 90, 12, 88 and a budget of 128 the micro-batches are [90, 10] and [88, 12].
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    alone = [[position] for position in order if lengths[position] > token_budget]
    rest = order[len(alone) :]
    count = math.ceil(sum(lengths[position] for position in rest) / token_budget)
    while True:
        count = min(len(rest), count + -(len(alone) + count) % ranks)
        shared = _share_out(rest, lengths, count)
        if count == len(rest) or max(sum(lengths[member] for member in members) for members in shared) <= token_budget:
            return alone + shared
        count += 1


def _share_out(positions: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    batches: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]
    for position in positions:
        tokens, number = filled[0]
        heapq.heapreplace(filled, (tokens + lengths[position], number))
        batches[number].append(position)
    return batches


def pack_padded(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut a step's examples, sorted by length, into micro-batches with little padding, each within the budget.

    For a model whose examples must be padded to equal lengths. The cuts are where the sum of padded tokens and
    of the cost per micro-batch is least (dynamic programming). Otherwise as `pack`.

    With lengths 10, 90, 12, 88 and a cost of 48 the cut is [90, 88], [12, 10]: 204 padded tokens, not 360.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    best_cost, best_cut = [0.0], [0]  # over the first k examples: least cost, where its last micro-batch begins
    for end in range(1, len(order) + 1):
        cost, cut = math.inf, end - 1
        for begin in range(end - 1, -1, -1):
            padded = lengths[order[begin]] * (end - begin)
            if padded > token_budget and begin < end - 1:
                break
            candidate = best_cost[begin] + padded + MICRO_BATCH_COST_TOKENS
            if candidate < cost:
                cost, cut = candidate, begin
        best_cost.append(cost)
        best_cut.append(cut)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[best_cut[end] : end])
        end = best_cut[end]
    return batches[::-1]


@dataclass(frozen=True)
class TrainingPlan:
    """The steps of a run: each epoch is one permutation, cut into batches; the last of an epoch may be short."""

    n_examples: int
    batch_size: int
    n_epochs: int
    seed: int
    n_evals: int = EVALUATIONS

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.n_examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.n_epochs

    @cached_property
    def evaluated_after(self) -> frozenset[int]:
        """The numbers of steps after which held-out examples are scored: 0, some between, all."""
        return evaluated_after(self.total_steps, self.n_evals)

    def members_of(self, step: int) -> list[int]:
        """Give the examples that the step after ``step`` steps learns from."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        begin = batch * self.batch_size
        members: list[int] = epoch_order(self.seed, epoch, self.n_examples)[begin : begin + self.batch_size].tolist()
        return members
