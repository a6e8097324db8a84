"""Which requests may wait, and when one that may not is told to come again."""

import pytest

from core.errors import EngineBusy
from worker.inference.admission import Limits, Load, Rate, Speed


def make_speed(*, prefill: float = 100.0, decode: float = 10.0, answer_tokens: int = 20) -> Speed:
    speed = Speed()
    speed.note_step(1.0, int(prefill), 0)
    speed.note_step(1.0, 0, int(decode))
    speed.note_answer(answer_tokens)
    return speed


def retry_after(limits: Limits, load: Load, prompt_tokens: int, speed: Speed) -> int:
    with pytest.raises(EngineBusy) as caught:
        limits.check(load, prompt_tokens, speed)
    assert caught.value.args[0] == load.requests
    return caught.value.retry_after_s


def test_requests_wait_up_to_the_limit() -> None:
    limits = Limits(requests=2, prompt_tokens=1000)
    limits.check(Load(1, 10), 10, Speed())
    retry_after(limits, Load(2, 20), 10, Speed())


def test_prompts_wait_up_to_their_tokens() -> None:
    limits = Limits(requests=100, prompt_tokens=1000)
    limits.check(Load(5, 900), 100, Speed())
    retry_after(limits, Load(5, 900), 101, Speed())


def test_a_prompt_over_the_limit_may_wait_alone() -> None:
    limits = Limits(requests=100, prompt_tokens=1000)
    limits.check(Load(0, 0), 5000, Speed())
    retry_after(limits, Load(1, 1), 5000, Speed())


def test_the_wait_is_the_work_that_has_to_go_by_the_measured_speed() -> None:
    # 4 requests of 500 tokens each: 2000 / 100 s of prompts and 4 * 20 / 10 s of answers; one of four has to go
    assert retry_after(Limits(4, 10_000), Load(4, 2000), 10, make_speed()) == 7
    # half of the tokens have to go
    assert retry_after(Limits(100, 2000), Load(4, 2000), 1000, make_speed()) == 14


def test_the_wait_is_never_longer_than_all_that_waits() -> None:
    assert retry_after(Limits(100, 2000), Load(4, 2000), 9000, make_speed()) == 28


def test_the_wait_is_a_second_at_least() -> None:
    assert retry_after(Limits(1, 1000), Load(1, 10), 10, make_speed(prefill=1e6, decode=1e6)) == 1
    assert retry_after(Limits(1, 1000), Load(1, 10), 10, Speed()) == 1


def test_a_rate_follows_what_was_done_lately() -> None:
    rate = Rate()
    assert rate.per_s == 0
    rate.note(1000, 100.0)
    assert rate.per_s == 10
    for _ in range(100):
        rate.note(50, 1.0)
    assert rate.per_s == pytest.approx(50, rel=0.05)


def test_a_step_of_both_kinds_is_divided_by_its_tokens() -> None:
    speed = Speed()
    speed.note_step(1.0, 30, 10)
    assert (speed.prefill_tokens_per_s, speed.decode_tokens_per_s) == (40, 40)
