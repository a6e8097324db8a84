"""What an earlier prompt left is found by prompts that begin alike, of the same caller and adapter only."""

from pathlib import Path

import pytest

from tests.worker.inference.scheduler.fake_runner import SHAPE, read_slot
from tests.worker.inference.scheduler.loop_harness import LoopHarness
from worker.inference.kv_cache.prefix import BLOCK_TOKENS, PrefixCache
from worker.inference.kv_cache.slots import KvPool, KvSlot

PROMPT = [*range(1, 51)]  # three blocks and two tokens
BLOCK_BYTES = BLOCK_TOKENS * SHAPE.bytes_per_token


class PrefixCacheHarness:
    """A KV cache with a prefix cache over it."""

    def __init__(self, blocks: int = 100) -> None:
        self.kv = KvPool(SHAPE, 100 * 256 * SHAPE.bytes_per_token, 256)
        self.cache = PrefixCache(self.kv, blocks * BLOCK_BYTES)

    def store(self, ids: list[int], caller: str = "a", adapter: str | None = None) -> None:
        slot = self._allocate()
        for place, token_id in enumerate(ids):
            for keys, values in zip(slot.arena.keys, slot.arena.values, strict=True):
                keys[slot.place, 0, :, place] = values[slot.place, 0, place] = token_id
        slot.length = len(ids)
        self.cache.store(slot, caller, adapter, ids)
        self.kv.release(slot)

    def find(self, ids: list[int], caller: str = "a", adapter: str | None = None) -> list[int]:
        slot = self._allocate()
        tokens = self.cache.fill(slot, caller, adapter, ids)
        ids_found = read_slot(slot)
        assert tokens == len(ids_found)
        self.kv.release(slot, wipe=True)
        return ids_found

    def _allocate(self) -> KvSlot:
        slot = self.kv.allocate(200)
        assert slot is not None
        return slot


def test_whole_blocks_of_a_prompt_that_begins_alike_are_found() -> None:
    harness = PrefixCacheHarness()
    harness.store(PROMPT)
    assert harness.find([*PROMPT, 7, 8]) == PROMPT[:48]
    assert harness.find([*PROMPT[:40], 99, 98, 97, 96, 95, 94, 93, 92]) == PROMPT[:32]
    assert harness.find(PROMPT[:15]) == []


def test_the_last_token_of_a_prompt_is_never_found() -> None:
    harness = PrefixCacheHarness()
    harness.store(PROMPT[:32])
    assert harness.find(PROMPT[:32]) == PROMPT[:16]
    assert harness.find(PROMPT[:33]) == PROMPT[:32]


@pytest.mark.parametrize("whose", [("b", None), ("", None), ("a", "x"), ("a", "base"), ("ab", None), ("a\0", None)])
def test_what_others_left_is_not_found(whose: tuple[str, str | None]) -> None:
    harness = PrefixCacheHarness()
    harness.store(PROMPT, "b", "x")
    harness.store(PROMPT, "a", None) if whose != ("a", None) else None
    if whose != ("a", "base"):  # no digest: an adapter is never called so
        assert harness.find(PROMPT, *whose) == []
    assert harness.find(PROMPT, "a", None) == PROMPT[:48]


def test_a_block_counts_with_all_that_stands_before_it() -> None:
    harness = PrefixCacheHarness()
    harness.store(PROMPT)
    assert harness.find([0, *PROMPT[1:]]) == []
    assert harness.find([*PROMPT[16:32], *PROMPT[16:50]]) == []


def test_the_least_recently_used_prompts_leave_first() -> None:
    harness = PrefixCacheHarness(blocks=6)
    first, second, third = ([start + number for number in range(49)] for start in (100, 200, 300))
    harness.store(first)
    harness.store(second)
    assert harness.find(first)
    harness.store(third)
    assert harness.cache.used_bytes == 6 * BLOCK_BYTES
    assert [len(harness.find(ids)) for ids in (first, second, third)] == [48, 0, 48]


def test_a_prompt_loses_its_end_before_its_beginning() -> None:
    harness = PrefixCacheHarness(blocks=4)
    harness.store(PROMPT)
    harness.store([200 + number for number in range(33)])
    assert harness.find(PROMPT) == PROMPT[:32]


def test_a_prompt_longer_than_the_memory_is_kept_as_far_as_it_fits() -> None:
    harness = PrefixCacheHarness(blocks=2)
    harness.store(PROMPT)
    assert harness.find(PROMPT) == PROMPT[:32]


def test_without_memory_nothing_is_kept() -> None:
    harness = PrefixCacheHarness(blocks=0)
    harness.store(PROMPT)
    assert harness.find(PROMPT) == []
    assert harness.cache.used_bytes == 0


def test_only_new_blocks_are_stored() -> None:
    harness = PrefixCacheHarness()
    harness.store(PROMPT)
    harness.store([*PROMPT, *range(60, 80)])
    assert harness.cache.used_bytes == 4 * BLOCK_BYTES


def test_an_adapters_prompts_are_dropped_with_it() -> None:
    harness = PrefixCacheHarness()
    for adapter in ("x", "y", None):
        harness.store(PROMPT, "a", adapter)
    harness.cache.drop("x")
    assert [len(harness.find(PROMPT, "a", adapter)) for adapter in ("x", "y", None)] == [0, 48, 48]
    assert harness.cache.used_bytes == 6 * BLOCK_BYTES


def test_answers_are_the_same_from_a_kept_prompt_and_say_so(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapter = harness.adapter("a")
    prompt = "a prompt that begins alike, " * 3
    first = harness.generate(prompt + "first", adapter, caller="me")
    second = harness.generate(prompt + "second", adapter, caller="me")
    fresh = LoopHarness(tmp_path / "fresh", engine_prefix_bytes=0).generate(prompt + "second", adapter, caller="me")
    assert second.ids == fresh.ids
    usages = [request.deltas[-1].usage for request in (first, second, fresh)]
    assert [usage.cached_tokens if usage else None for usage in usages] == [0, 80, 0]
    assert sum(len(tokens) for tokens, _ in harness.runner.fed[4]) == len(prompt) + len("second") - 80


def test_another_caller_or_adapter_reads_a_prompt_anew(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapters = [harness.adapter("a"), harness.adapter("b"), None]
    prompt = "a prompt that begins alike, " * 3
    requests = [harness.generate(prompt, adapter, caller=caller) for caller in ("me", "you") for adapter in adapters]
    assert [request.scheduled.cached_tokens for request in requests] == [0] * 6


def test_kept_prompts_take_no_more_than_running_requests_where_the_engine_chose_their_limit(tmp_path: Path) -> None:
    used = []
    for name, settings in (("chosen", {}), ("set", {"engine_kv_bytes": 2**20})):
        harness = LoopHarness(tmp_path / name, runner={"kv_slots": 1}, **settings)
        for number in range(20):
            harness.generate(f"{number:02}" + "a prompt of many that are kept, each of three blocks")
        used.append(harness.loop._prefixes.used_bytes)
    assert used == [128 * SHAPE.bytes_per_token, 20 * 3 * BLOCK_BYTES]


def test_an_unloaded_adapter_leaves_no_prompts(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapter = harness.adapter("a")
    prompt = "a prompt that is long enough to be kept"
    harness.generate(prompt, adapter)
    harness.loop.drop_adapter(adapter.digest)
    harness.step()
    assert harness.runner.bank.placed == ()
    assert harness.generate(prompt, adapter).scheduled.cached_tokens == 0


def test_a_prompt_whose_likelihood_is_asked_for_is_read_whole(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    prompt = "a prompt that is long enough to be kept"
    harness.generate(prompt)
    request = harness.generate(prompt, prompt_logprobs=True)
    assert request.scheduled.cached_tokens == 0
    assert request.deltas[0].prompt is not None
    assert len(request.deltas[0].prompt) == len(prompt)
