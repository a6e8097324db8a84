"""The budget of a step: prompt tokens of prefill chunks beside decoding rows, and draft tokens to be verified.

Both follow from how a step's length grows with its tokens, which is tried on this machine while no requests are there:
a step reads all weights whatever it computes, so a few tokens more cost little, until arithmetic takes longer. Up to
how many tokens rows are computed together is tried as well. Knows steps of a model, not requests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import torch
from pydantic import Field, TypeAdapter

from core.settings import Settings
from worker.inference.kv_cache.slots import KvSlot
from worker.inference.lora.step_columns import LONGEST_SHARED
from worker.inference.model.contract import Runner, StepRow
from worker.inference.tuning.autotuner import Trial
from worker.inference.tuning.trial_timer import TrialTimer

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

    prefill_tokens: Annotated[int, Field(ge=1, le=TRIED[-1])]
    tokens_with_drafts: Annotated[int, Field(ge=1, le=TRIED[-1])]


UNTRIED: Final = {
    "cpu": StepBudget(32, 16),
    "cuda": StepBudget(512, 64),
}  # by the device's type; what has been seen to do


def budget_trial(runner: Runner, settings: Settings, use: Callable[[StepBudget], None]) -> Trial[StepBudget] | None:
    """Make the trial that finds a budget by steps of growing length; None where the settings say all of it."""
    wants_chunk, wants_drafts = settings.engine_prefill_tokens is None, settings.engine_speculation
    if not wants_chunk and not wants_drafts:
        return None
    find = partial(_find_budget, runner, wants_chunk=wants_chunk)
    return Trial("step budget", TypeAdapter(StepBudget), UNTRIED[runner.kv.shape.device.type], find, use)


def shared_trial(runner: Runner) -> Trial[int]:
    """Make the trial that lets rows of a few tokens be computed together as long as that is the faster way."""

    def use(tokens: int) -> None:
        runner.longest_shared = tokens

    kind: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=SHARED_TRIED[-1])])
    find = partial(_find_longest_shared, runner)
    return Trial("rows computed together up to tokens", kind, LONGEST_SHARED, find, use)


def _find_budget(runner: Runner, timer: TrialTimer, *, wants_chunk: bool) -> StepBudget:
    with torch.inference_mode():
        return choose_budget(_take_steps(runner, timer, wants_chunk=wants_chunk))


def _find_longest_shared(runner: Runner, timer: TrialTimer) -> int:
    """Find it; what the runner is at meanwhile is put back."""
    before, best = runner.longest_shared, 1
    try:
        with torch.inference_mode():
            for tokens in SHARED_TRIED:
                together_s, apart_s = (_take_step(runner, tokens, longest, timer) for longest in (tokens, tokens - 1))
                if together_s is None or apart_s is None or together_s > apart_s:
                    break
                best = tokens
    finally:
        runner.longest_shared = before
    return best


def _take_step(runner: Runner, tokens: int, longest_shared: int, timer: TrialTimer) -> float | None:
    """Give the length of a step of some rows of so many tokens; None where there is no room for them."""
    runner.longest_shared = longest_shared
    slots = [slot for slot in (runner.kv.allocate(tokens) for _ in range(SHARED_ROWS)) if slot is not None]
    try:
        if len(slots) < SHARED_ROWS:
            return None
        return _step_s(runner, slots, tokens, timer)
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


def _take_steps(runner: Runner, timer: TrialTimer, *, wants_chunk: bool) -> dict[int, float]:
    """Give the lengths of steps, by their tokens, as far as they matter for a prefill chunk, or else for drafts."""
    seconds: dict[int, float] = {}
    for tokens in TRIED:
        slot = runner.kv.allocate(tokens) if tokens <= runner.kv.longest else None
        if slot is None:
            break
        try:
            seconds[tokens] = _step_s(runner, [slot], tokens, timer)
        finally:
            runner.kv.release(slot)
        is_long = tokens >= LEAST_CHUNK and seconds[tokens] > LONGEST_STEP_S
        if is_long if wants_chunk else seconds[tokens] > CHEAP * seconds[1]:
            break
    return seconds


def _step_s(runner: Runner, slots: Sequence[KvSlot], tokens: int, timer: TrialTimer) -> float:
    """Give the length of a step with so many tokens for each slot."""

    def take_step() -> None:
        runner.forward([StepRow(slot, [1] * tokens, None, 1) for slot in slots])
        for slot in slots:
            slot.truncate(0)

    return timer.fastest_s(take_step)
