"""How much a step is given to do, by the lengths of steps."""

import torch

from tests.worker.inference.fake_runner import FakeRunner
from worker.inference.pace import LONGEST_STEP_S, TRIED, Pace, choose_pace, find_pace


def lengths(start_s: float, token_s: float) -> dict[int, float]:
    """A machine whose steps take so long, and so much longer for each token; only until one is too long."""
    found = {}
    for tokens in TRIED:
        found[tokens] = start_s + tokens * token_s
        if tokens >= 16 and found[tokens] > LONGEST_STEP_S:
            break
    return found


def test_the_least_part_that_is_read_at_nearly_the_best_rate() -> None:
    # 64 tokens take 42 ms, 656 us each; 128 take 77 ms, 602 us each
    assert choose_pace(lengths(0.007, 0.00055)).beside_tokens == 64


def test_where_tokens_cost_nothing_much_is_read() -> None:
    assert choose_pace(lengths(0.01, 1e-6)) == Pace(beside_tokens=512, cheap_tokens=512)


def test_no_step_is_longer_than_others_can_wait() -> None:
    assert choose_pace(lengths(0.05, 0.001)).beside_tokens == 32


def test_on_a_slow_machine_the_least_part_is_read() -> None:
    assert choose_pace(lengths(0.15, 0.008)) == Pace(beside_tokens=16, cheap_tokens=8)


def test_cheap_are_tokens_that_make_a_step_little_longer() -> None:
    assert choose_pace(lengths(0.01, 0.0003)).cheap_tokens == 16


def test_a_context_shorter_than_any_part_is_read_as_far_as_was_tried() -> None:
    assert choose_pace({1: 0.01, 4: 0.01, 8: 0.01}) == Pace(beside_tokens=8, cheap_tokens=8)


def test_finding_it_leaves_no_slot_behind() -> None:
    runner = FakeRunner(vocab_size=300)
    pace = find_pace(runner)
    assert runner.kv.used_slots == 0
    assert pace.beside_tokens in TRIED
    assert not torch.is_inference_mode_enabled()
