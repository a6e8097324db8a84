"""What an earlier prompt left is found by prompts that begin alike, of the same caller and adapter only."""

from pathlib import Path

import pytest

from tests.worker.inference.scheduler.fake_runner import SHAPE, read_slot
from tests.worker.inference.scheduler.loop_harness import LoopHarness
from worker.inference.kv_cache.prefix import BLOCK_TOKENS, PrefixCache
from worker.inference.kv_cache.slots import KvPool, Slot

PROMPT = [*range(1, 51)]  # three blocks and two tokens
BLOCK_BYTES = BLOCK_TOKENS * SHAPE.bytes_per_token


class Shelf:
    """A pool with a cache over it."""

    def __init__(self, blocks: int = 100) -> None:
        self.kv = KvPool(SHAPE, 100 * 256 * SHAPE.bytes_per_token, 256)
        self.cache = PrefixCache(self.kv, blocks * BLOCK_BYTES)

    def store(self, ids: list[int], caller: str = "a", adapter: str | None = None) -> None:
        slot = self._take()
        for place, token_id in enumerate(ids):
            for keys, values in zip(slot.arena.keys, slot.arena.values, strict=True):
                keys[slot.place, 0, :, place] = values[slot.place, 0, place] = token_id
        slot.length = len(ids)
        self.cache.store(slot, caller, adapter, ids)
        self.kv.release(slot)

    def find(self, ids: list[int], caller: str = "a", adapter: str | None = None) -> list[int]:
        slot = self._take()
        tokens = self.cache.fill(slot, caller, adapter, ids)
        found = read_slot(slot)
        assert tokens == len(found)
        self.kv.release(slot, wipe=True)
        return found

    def _take(self) -> Slot:
        slot = self.kv.take(200)
        assert slot is not None
        return slot


def test_whole_blocks_of_a_prompt_that_begins_alike_are_found() -> None:
    shelf = Shelf()
    shelf.store(PROMPT)
    assert shelf.find([*PROMPT, 7, 8]) == PROMPT[:48]
    assert shelf.find([*PROMPT[:40], 99, 98, 97, 96, 95, 94, 93, 92]) == PROMPT[:32]
    assert shelf.find(PROMPT[:15]) == []


def test_the_last_token_of_a_prompt_is_never_found() -> None:
    shelf = Shelf()
    shelf.store(PROMPT[:32])
    assert shelf.find(PROMPT[:32]) == PROMPT[:16]
    assert shelf.find(PROMPT[:33]) == PROMPT[:32]


@pytest.mark.parametrize("whose", [("b", None), ("", None), ("a", "x"), ("a", "base"), ("ab", None), ("a\0", None)])
def test_what_others_left_is_not_found(whose: tuple[str, str | None]) -> None:
    shelf = Shelf()
    shelf.store(PROMPT, "b", "x")
    shelf.store(PROMPT, "a", None) if whose != ("a", None) else None
    if whose != ("a", "base"):  # no digest: an adapter is never called so
        assert shelf.find(PROMPT, *whose) == []
    assert shelf.find(PROMPT, "a", None) == PROMPT[:48]


def test_a_block_counts_with_all_that_stands_before_it() -> None:
    shelf = Shelf()
    shelf.store(PROMPT)
    assert shelf.find([0, *PROMPT[1:]]) == []
    assert shelf.find([*PROMPT[16:32], *PROMPT[16:50]]) == []


def test_the_least_recently_used_prompts_leave_first() -> None:
    shelf = Shelf(blocks=6)
    first, second, third = ([start + number for number in range(49)] for start in (100, 200, 300))
    shelf.store(first)
    shelf.store(second)
    assert shelf.find(first)
    shelf.store(third)
    assert shelf.cache.used_bytes == 6 * BLOCK_BYTES
    assert [len(shelf.find(ids)) for ids in (first, second, third)] == [48, 0, 48]


def test_a_prompt_loses_its_end_before_its_beginning() -> None:
    shelf = Shelf(blocks=4)
    shelf.store(PROMPT)
    shelf.store([200 + number for number in range(33)])
    assert shelf.find(PROMPT) == PROMPT[:32]


def test_a_prompt_longer_than_the_memory_is_kept_as_far_as_it_fits() -> None:
    shelf = Shelf(blocks=2)
    shelf.store(PROMPT)
    assert shelf.find(PROMPT) == PROMPT[:32]


def test_without_memory_nothing_is_kept() -> None:
    shelf = Shelf(blocks=0)
    shelf.store(PROMPT)
    assert shelf.find(PROMPT) == []
    assert shelf.cache.used_bytes == 0


def test_only_new_blocks_are_stored() -> None:
    shelf = Shelf()
    shelf.store(PROMPT)
    shelf.store([*PROMPT, *range(60, 80)])
    assert shelf.cache.used_bytes == 4 * BLOCK_BYTES


def test_an_adapters_prompts_are_dropped_with_it() -> None:
    shelf = Shelf()
    for adapter in ("x", "y", None):
        shelf.store(PROMPT, "a", adapter)
    shelf.cache.drop("x")
    assert [len(shelf.find(PROMPT, "a", adapter)) for adapter in ("x", "y", None)] == [0, 48, 48]
    assert shelf.cache.used_bytes == 6 * BLOCK_BYTES


def test_answers_are_the_same_from_a_kept_prompt_and_say_so(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapter = harness.adapter("a")
    prompt = "a prompt that begins alike, " * 3
    first = harness.answer_alone(prompt + "first", adapter, caller="me")
    second = harness.answer_alone(prompt + "second", adapter, caller="me")
    fresh = LoopHarness(tmp_path / "fresh", engine_prefix_bytes=0).answer_alone(prompt + "second", adapter, caller="me")
    assert second.ids == fresh.ids
    usages = [asked.deltas[-1].usage for asked in (first, second, fresh)]
    assert [usage.cached_tokens if usage else None for usage in usages] == [0, 80, 0]
    assert sum(len(tokens) for tokens, _ in harness.runner.fed[4]) == len(prompt) + len("second") - 80


def test_another_caller_or_adapter_reads_a_prompt_anew(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapters = [harness.adapter("a"), harness.adapter("b"), None]
    prompt = "a prompt that begins alike, " * 3
    answers = [harness.answer_alone(prompt, adapter, caller=caller) for caller in ("me", "you") for adapter in adapters]
    assert [asked.answer.cached_tokens for asked in answers] == [0] * 6


def test_kept_prompts_take_no_more_than_running_requests_where_the_engine_chose_their_limit(tmp_path: Path) -> None:
    used = []
    for name, settings in (("chosen", {}), ("told", {"engine_kv_bytes": 2**20})):
        harness = LoopHarness(tmp_path / name, runner={"kv_slots": 1}, **settings)
        for number in range(20):
            harness.answer_alone(f"{number:02}" + "a prompt of many that are kept, each of three blocks")
        used.append(harness.loop._prefixes.used_bytes)
    assert used == [128 * SHAPE.bytes_per_token, 20 * 3 * BLOCK_BYTES]


def test_an_unloaded_adapter_leaves_no_prompts(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapter = harness.adapter("a")
    prompt = "a prompt that is long enough to be kept"
    harness.answer_alone(prompt, adapter)
    harness.loop.drop_adapter(adapter.digest)
    harness.turn()
    assert harness.runner.bank.placed == ()
    assert harness.answer_alone(prompt, adapter).answer.cached_tokens == 0


def test_a_prompt_whose_likelihood_is_asked_for_is_read_whole(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    prompt = "a prompt that is long enough to be kept"
    harness.answer_alone(prompt)
    asked = harness.answer_alone(prompt, prompt_logprobs=True)
    assert asked.answer.cached_tokens == 0
    assert asked.deltas[0].prompt is not None
    assert len(asked.deltas[0].prompt) == len(prompt)
