"""The budget of a step: prompt tokens of prefill chunks beside decoding rows, and draft tokens to be verified.

Both follow from how a step's length grows with its tokens, which is tried once on this machine before requests come: a
step reads all weights whatever it computes, so a few tokens more cost little, until arithmetic takes longer than that.
Up to how many tokens rows are computed together is tried as well. Knows steps of a model, not requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from worker.inference.autotune import Autotuner
from worker.inference.kv_cache.slots import KvSlot
from worker.inference.model.contract import Runner, StepRow

TRIED: Final = (1, 4, 8, 16, 32, 64, 128, 256, 512)  # tokens
LEAST_CHUNK: Final = 16
SHARED_TRIED: Final = (2, 4, 8, 16)  # tokens of a row
SHARED_ROWS: Final = 4
LONGEST_STEP_S: Final = 0.1  # that a prefill chunk may make of a step in which other rows wait for their next token
ENOUGH: Final = 0.85  # of the best rate of tokens that any chunk reaches
CHEAP: Final = 1.5  # times the length of a step of one token


@dataclass(frozen=True)
class StepBudget:
    """How many tokens a step is given.

    Attributes:
        prefill_tokens: of prompts, while rows decode: each of these waits for them.
        tokens_with_drafts: draft tokens fill a step up to so many tokens; up to there a few more cost little.
    """

    prefill_tokens: int
    tokens_with_drafts: int


UNTRIED: Final = {
    "cpu": StepBudget(32, 16),
    "cuda": StepBudget(512, 64),
}  # by the device's type; what has been seen to do


def tune_step_budget(runner: Runner, tuner: Autotuner) -> StepBudget:
    """Choose a budget by steps of growing length."""
    with torch.inference_mode():
        seconds = _take_steps(runner, tuner)
    budget = choose_budget(seconds)
    lengths = ", ".join(f"{tokens}: {length * 1e3:.1f}" for tokens, length in seconds.items())
    tuner.decide("step budget", f"{budget}, by the milliseconds of a step of so many tokens ({lengths})")
    return budget


def tune_longest_shared(runner: Runner, tuner: Autotuner) -> None:
    """Let the runner compute rows of a few tokens together as long as that is the faster way, and else one by one."""
    best = 1
    with torch.inference_mode():
        for tokens in SHARED_TRIED:
            together_s, apart_s = (_take_step(runner, tokens, longest, tuner) for longest in (tokens, tokens - 1))
            if together_s is None or apart_s is None or together_s > apart_s:
                break
            best = tokens
    runner.longest_shared = best
    tuner.decide("rows computed together", f"up to {best} tokens each")


def _take_step(runner: Runner, tokens: int, longest_shared: int, tuner: Autotuner) -> float | None:
    """Give the length of a step of some rows of so many tokens; None where there is no room for them."""
    runner.longest_shared = longest_shared
    slots = [slot for slot in (runner.kv.allocate(tokens) for _ in range(SHARED_ROWS)) if slot is not None]
    try:
        if len(slots) < SHARED_ROWS:
            return None
        return _step_s(runner, slots, tokens, tuner)
    finally:
        for slot in slots:
            runner.kv.release(slot)


def choose_budget(seconds: Mapping[int, float]) -> StepBudget:
    """Choose by the lengths of steps, by their tokens; that of one token is among them.

    The least prefill chunk that is computed at nearly the best rate, but none that makes a step too long.
    """
    chunks = {tokens: length for tokens, length in seconds.items() if tokens >= LEAST_CHUNK} or seconds
    bearable = {tokens: length for tokens, length in chunks.items() if length <= LONGEST_STEP_S}
    if not bearable:
        prefill_tokens = min(chunks)
    else:
        rates = {tokens: tokens / length for tokens, length in bearable.items()}
        prefill_tokens = min(tokens for tokens, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
    tokens_with_drafts = max(tokens for tokens, length in seconds.items() if length <= CHEAP * seconds[1])
    return StepBudget(prefill_tokens, tokens_with_drafts)


def _take_steps(runner: Runner, tuner: Autotuner) -> dict[int, float]:
    seconds: dict[int, float] = {}
    for tokens in TRIED:
        slot = runner.kv.allocate(tokens) if tokens <= runner.kv.longest else None
        if slot is None:
            break
        try:
            seconds[tokens] = _step_s(runner, [slot], tokens, tuner)
        finally:
            runner.kv.release(slot)
        if tokens >= LEAST_CHUNK and seconds[tokens] > LONGEST_STEP_S:
            break
    return seconds


def _step_s(runner: Runner, slots: Sequence[KvSlot], tokens: int, tuner: Autotuner) -> float:
    """Give the length of a step with so many tokens for each slot."""

    def take_step() -> None:
        runner.forward([StepRow(slot, [1] * tokens, None, 1) for slot in slots])
        for slot in slots:
            slot.truncate(0)

    return tuner.fastest_s(take_step)
