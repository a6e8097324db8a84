"""Times the steps of a runner, and of transformers' generate, on prompts of one length. Knows no model's files.

All times are seconds. ``StepTimings`` keeps every repeat, since what is compared is interleaved repeat by repeat.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from worker.inference.kv_cache.slots import KvSlot
from worker.inference.lora.adapter import Adapter
from worker.inference.model.contract import Runner, StepRow

COPIED_AT_ONCE = 2**30


@dataclass
class StepTimings:
    """Seconds of a step in each repeat."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        return {"median_ms": 1e3 * self.median_s, "min_ms": 1e3 * min(self.seconds), "ms": _in_ms(self.seconds)}


def _in_ms(seconds: Sequence[float]) -> list[float]:
    return [round(1e3 * one, 4) for one in seconds]


def interleave(
    work: Mapping[str, Callable[[], float]],
    repeats: int,
    after_round: Callable[[Mapping[str, StepTimings]], None] = lambda _: None,
) -> dict[str, StepTimings]:
    """Take each measurement in turn, so often, behind a round that warms up: what else happens falls on all alike.

    ``after_round`` is told what was measured so far.
    """
    measured = {name: StepTimings() for name in work}
    for number in range(repeats + 1):
        for name, take in work.items():
            seconds = take()
            if number:
                measured[name].seconds.append(seconds)
        if number:
            after_round(measured)
    return measured


@contextmanager
def placed(runner: Runner, adapters: Sequence[Adapter | None]) -> Iterator[None]:
    """Keep adapters in the bank around the block, and no others: columns of others could cost time as well."""
    there = {adapter.digest: adapter for adapter in adapters if adapter is not None}
    reserved: list[Adapter] = []
    try:
        for adapter in there.values():
            if not runner.bank.reserve(adapter):
                raise RuntimeError(f"the bank has no room for {len(there)} adapters of rank {adapter.rank}")
            reserved.append(adapter)
        while runner.bank.copy_some(COPIED_AT_ONCE):
            pass
        yield
    finally:
        for adapter in reserved:
            runner.bank.unpin(adapter)
            runner.bank.drop(adapter.digest)


def time_decode(
    runner: Runner, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None], steps: int
) -> float:
    """Give the mean time of a greedy step of all rows behind their prompts."""
    with torch.inference_mode(), placed(runner, adapters):
        slots = [_take(runner, len(prompt) + steps + 1) for prompt in prompts]
        try:
            logits = [
                runner.forward([StepRow(slot, prompt, adapter, 1)])[0]
                for slot, prompt, adapter in zip(slots, prompts, adapters, strict=True)
            ]
            tokens = torch.stack(logits).argmax(1).tolist()
            begin = _now()
            for _ in range(steps):
                rows = [StepRow(s, [t], a, 1) for s, t, a in zip(slots, tokens, adapters, strict=True)]
                tokens = runner.forward(rows).argmax(1).tolist()
            return (_now() - begin) / steps
        finally:
            for slot in slots:
                runner.kv.release(slot)


def time_prefill(runner: Runner, prompt: Sequence[int], adapter: Adapter | None) -> float:
    """Give the time of feeding a prompt at once, up to the logits that follow it."""
    with torch.inference_mode(), placed(runner, [adapter]):
        slot = _take(runner, len(prompt) + 1)
        try:
            begin = _now()
            runner.forward([StepRow(slot, prompt, adapter, 1)]).argmax(1).tolist()
            return _now() - begin
        finally:
            runner.kv.release(slot)


def agreement(runner: Runner, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """Give the share of an answer's tokens that the runner would have chosen too, with the answer's own before them."""
    same = total = 0
    with torch.inference_mode():
        for prompt, answer in zip(prompts, answers, strict=True):
            fed = [*prompt, *answer[:-1]]
            slot = _take(runner, len(fed) + 1)
            chosen = runner.forward([StepRow(slot, fed, None, len(answer))]).argmax(1).tolist()
            runner.kv.release(slot)
            same += sum(left == right for left, right in zip(chosen, answer, strict=True))
            total += len(answer)
    return same / total


def time_generate(model: Any, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Give the mean time of a step of transformers' greedy generate, its prefill not counted."""
    clock = _StepClock()
    ids_BT = torch.tensor(prompts, device=model.device)
    with torch.inference_mode():
        model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            generation_config=greedy(steps + 1),
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    assert len(clock.at_s) == steps + 1, "an end token ended it early"
    return (clock.at_s[-1] - clock.at_s[0]) / steps


def generate(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Give transformers' own greedy answers."""
    ids_BT = torch.tensor(prompts, device=model.device)
    with torch.inference_mode():
        out_BT = model.generate(
            input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=greedy(tokens)
        )
    answers: list[list[int]] = out_BT[:, ids_BT.shape[1] :].tolist()
    return answers


def greedy(tokens: int) -> GenerationConfig:
    """Ask generate for so many tokens; the model's own configuration must name no end token."""
    return GenerationConfig(do_sample=False, max_new_tokens=tokens, use_cache=True, pad_token_id=0)


class _StepClock(StoppingCriteria):
    """Notes when each token of generate is there."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, _scores: torch.FloatTensor, **_more: Any) -> torch.Tensor:
        self.at_s.append(_now())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _take(runner: Runner, tokens: int) -> KvSlot:
    slot = runner.kv.allocate(tokens)
    if slot is None:
        raise RuntimeError(f"the cache has no room for another {tokens} tokens")
    return slot


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
