"""Running requests and kept prompts share what is free, and what an operator says is kept to."""

import random

import pytest

from core.settings import Settings
from worker.inference.kv_cache.budget import FULL_BATCHES, prefix_bytes, running_bytes

LARGE = 2**50  # a batch larger than any memory


def test_kept_prompts_are_taken_off_what_running_requests_may_use() -> None:
    settings = Settings(engine_prefix_bytes=100)
    assert running_bytes(settings, 1000, LARGE) == 400
    assert prefix_bytes(settings, 400) == 100


def test_where_little_is_free_both_get_half() -> None:
    settings = Settings(engine_prefix_bytes=400)
    assert running_bytes(settings, 1000, LARGE) == 250
    assert prefix_bytes(settings, 250) == 250


def test_without_kept_prompts_running_requests_have_all() -> None:
    settings = Settings(engine_prefix_bytes=0)
    assert running_bytes(settings, 1000, LARGE) == 500
    assert prefix_bytes(settings, 500) == 0


def test_both_together_never_take_more_than_half_of_what_is_free() -> None:
    rng = random.Random(3)
    for _ in range(1000):
        settings = Settings(engine_prefix_bytes=rng.choice([0, 1, rng.randrange(2000)]))
        free, batch = rng.randrange(2000), rng.randrange(1, 2000)
        running = running_bytes(settings, free, batch)
        assert running + prefix_bytes(settings, running) <= free / 2
        assert running <= FULL_BATCHES * batch


@pytest.mark.parametrize("prefix", [0, 100, 10_000])
def test_what_an_operator_says_of_running_requests_is_exact_and_changes_nothing_else(prefix: int) -> None:
    settings = Settings(engine_kv_bytes=700, engine_prefix_bytes=prefix)
    assert running_bytes(settings, 1000, 10) == 700
    assert prefix_bytes(settings, 700) == prefix
