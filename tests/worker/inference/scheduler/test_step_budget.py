"""How many tokens a step is given, by the lengths of steps."""

from pathlib import Path
from typing import Any

import torch

from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from tests.harness.models.served_models import serve_fp32
from tests.harness.models.tiny_models import write_tiny_phi
from tests.worker.inference.scheduler.fake_runner import FakeRunner
from worker.inference.model.contract import StepRow
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.inference.scheduler.step_budget import (
    LONGEST_STEP_S,
    TRIED,
    StepBudget,
    budget_trial,
    choose_budget,
    shared_trial,
)
from worker.inference.tuning.trial_timer import TrialTimer


def lengths(start_s: float, token_s: float) -> dict[int, float]:
    """A machine whose steps take so long, and so much longer for each token; only until one is too long."""
    seconds = {}
    for tokens in TRIED:
        seconds[tokens] = start_s + tokens * token_s
        if tokens >= 16 and seconds[tokens] > LONGEST_STEP_S:
            break
    return seconds


def test_the_least_chunk_that_is_computed_at_nearly_the_best_rate() -> None:
    # 64 tokens take 42 ms, 656 us each; 128 take 77 ms, 602 us each
    assert choose_budget(lengths(0.007, 0.00055)).prefill_tokens == 64


def test_where_tokens_cost_nothing_chunks_are_large() -> None:
    assert choose_budget(lengths(0.01, 1e-6)) == StepBudget(prefill_tokens=512, tokens_with_drafts=512)


def test_no_step_is_longer_than_others_can_wait() -> None:
    assert choose_budget(lengths(0.05, 0.001)).prefill_tokens == 32


def test_on_a_slow_machine_the_least_chunk_is_computed() -> None:
    assert choose_budget(lengths(0.15, 0.008)) == StepBudget(prefill_tokens=16, tokens_with_drafts=8)


def test_drafts_fill_a_step_as_long_as_that_makes_it_little_longer() -> None:
    assert choose_budget(lengths(0.01, 0.0003)).tokens_with_drafts == 16


def test_in_a_context_shorter_than_any_chunk_the_most_that_was_tried_is_computed() -> None:
    assert choose_budget({1: 0.01, 4: 0.01, 8: 0.01}) == StepBudget(prefill_tokens=8, tokens_with_drafts=8)


def find_budget(runner: FakeRunner, **settings: Any) -> StepBudget | None:
    """Make its trial under these settings, on a clock that goes by the tokens fed; None where there is none to make."""
    trial = budget_trial(runner, Settings(**settings), lambda _: None)

    def clock() -> float:
        return float(sum(len(tokens) for rows in runner.fed for tokens, _ in rows))

    return None if trial is None else trial.find(TrialTimer(torch.device("cpu"), clock=clock))


def test_finding_it_leaves_no_slot_behind() -> None:
    runner = FakeRunner(vocab_size=300)
    assert find_budget(runner) == StepBudget(prefill_tokens=16, tokens_with_drafts=1)
    assert runner.kv.used_slots == 0
    assert not torch.is_inference_mode_enabled()


def test_what_settings_give_is_not_tried() -> None:
    runner = FakeRunner(vocab_size=300)
    assert find_budget(runner, engine_prefill_tokens=64, engine_speculation=False) is None
    assert runner.fed == []


def test_where_the_chunk_is_set_steps_grow_only_until_drafts_no_longer_pay() -> None:
    runner = FakeRunner(vocab_size=300)
    budget = find_budget(runner, engine_prefill_tokens=64)
    assert budget is not None
    assert budget.tokens_with_drafts == 1
    assert {len(tokens) for [(tokens, _)] in runner.fed} == {1, 4}


def test_whether_rows_are_computed_together_changes_no_logits(tmp_path: Path) -> None:
    served = serve_fp32(write_tiny_phi(tmp_path / "base"))
    runner = build_runner(served, Settings(home=home_with_kernels()))
    trial = shared_trial(runner)
    trial.use(trial.find(TrialTimer(torch.device("cpu"))))
    assert runner.longest_shared in (1, 2, 4, 8, 16)
    assert runner.kv.used_slots == 0
    with torch.inference_mode():
        together, apart = _feed(runner, longest_shared=8), _feed(runner, longest_shared=1)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def _feed(runner: ModelRunner, *, longest_shared: int) -> torch.Tensor:
    """Feed three rows of unequal length in two steps; give the logits that follow."""
    runner.longest_shared = longest_shared
    slots = [slot for slot in (runner.kv.allocate(20) for _ in range(3)) if slot is not None]
    for tokens in ([3, 1, 4, 1, 5], [9, 2, 6]):
        logits = runner.forward([StepRow(slot, tokens[number:], None, 1) for number, slot in enumerate(slots)])
    for slot in slots:
        runner.kv.release(slot)
    return logits
