"""Which requests may wait, and when one that may not is told to come again."""

from dataclasses import dataclass

import pytest

from core.errors import EngineBusy
from core.serving.admission import Limits, Load, Rate, busy


@dataclass(frozen=True)
class FixedThroughput:
    """Implements ``admission.Throughput`` with speeds that do not change."""

    request_s: float = 0.0
    prompt_token_s: float = 0.0

    def seconds_for(self, requests: int, prompt_tokens: int) -> float | None:
        if not self.request_s and not self.prompt_token_s:
            return None
        return requests * self.request_s + prompt_tokens * self.prompt_token_s


UNKNOWN = FixedThroughput()
KNOWN = FixedThroughput(request_s=2.0, prompt_token_s=0.01)


def retry_after(limits: Limits, load: Load, prompt_tokens: int, throughput: FixedThroughput = UNKNOWN) -> int:
    with pytest.raises(EngineBusy) as caught:
        limits.check(load, prompt_tokens, throughput)
    assert caught.value.args[0] == load.requests
    return caught.value.retry_after_s


def test_requests_wait_up_to_the_limit() -> None:
    limits = Limits(requests=2, prompt_tokens=1000)
    limits.check(Load(1, 10), 10, UNKNOWN)
    retry_after(limits, Load(2, 20), 10)


def test_prompts_wait_up_to_their_tokens() -> None:
    limits = Limits(requests=100, prompt_tokens=1000)
    limits.check(Load(5, 900), 100, UNKNOWN)
    retry_after(limits, Load(5, 900), 101)


def test_a_prompt_over_the_limit_may_wait_alone() -> None:
    limits = Limits(requests=100, prompt_tokens=1000)
    limits.check(Load(0, 0), 5000, UNKNOWN)
    retry_after(limits, Load(1, 1), 5000)


def test_the_wait_is_the_work_that_has_to_go_by_the_measured_pace() -> None:
    # 4 requests of 500 tokens each: 20 s of prompts and 8 s of answers; one of four has to go
    assert retry_after(Limits(4, 10_000), Load(4, 2000), 10, KNOWN) == 7
    # half of the tokens have to go
    assert retry_after(Limits(100, 2000), Load(4, 2000), 1000, KNOWN) == 14


def test_the_wait_is_never_longer_than_all_that_waits() -> None:
    assert retry_after(Limits(100, 2000), Load(4, 2000), 9000, KNOWN) == 28
    assert busy(Load(4, 2000), KNOWN).retry_after_s == 28


def test_the_wait_is_a_second_at_least() -> None:
    assert retry_after(Limits(1, 1000), Load(1, 10), 10, FixedThroughput(request_s=1e-3)) == 1
    assert retry_after(Limits(1, 1000), Load(1, 10), 10, UNKNOWN) == 1


def test_a_rate_follows_what_was_done_lately() -> None:
    rate = Rate()
    assert rate.per_s is None
    rate.note(1000, 100.0)
    assert rate.per_s == 10
    for _ in range(100):
        rate.note(50, 1.0)
    assert rate.per_s == pytest.approx(50, rel=0.05)
