"""The adapter cache by itself: one load per digest, least recently used first out, never one in use, never too many."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from core.errors import AdapterInvalid, AdapterMismatch
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.fake_clock import FakeClock
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.worker.inference.adapters.fake_adapter_files import FakeFiles, LoadCounts
from worker.inference.adapters.cache import READS_AT_ONCE, REFUSED_FOR_S, AdapterCache
from worker.inference.lora.adapter import Adapter

T = TypeVar("T")


@pytest.fixture
def files(tmp_path: Path) -> FakeFiles:
    write_byte_tokenizer(tmp_path)
    return FakeFiles(Renderer(TextTokenizer.from_folder(tmp_path)))


@pytest.fixture
def counts() -> LoadCounts:
    return LoadCounts()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Run = Callable[[Callable[[AdapterCache], Awaitable[T]]], T]


@pytest.fixture
def run(files: FakeFiles, counts: LoadCounts, clock: FakeClock) -> Run[Any]:
    """Give what runs a piece of work with a cache of 25 bytes."""

    def run(work: Callable[[AdapterCache], Awaitable[T]]) -> T:
        async def with_cache() -> T:
            cache = AdapterCache(files.open, 25, counts, clock=clock)
            try:
                return await work(cache)
            finally:
                files.go.set()
                await cache.close()

        return asyncio.run(with_cache())

    return run


async def use(cache: AdapterCache, digest: str) -> None:
    await cache.pin(digest)
    cache.unpin(digest)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def test_many_requests_for_one_adapter_cause_one_load(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> list[Adapter]:
        return [*await asyncio.gather(*(cache.pin("a") for _ in range(5)))]

    adapters = run(work)
    assert files.reads == ["a"]
    assert all(adapter is adapters[0] for adapter in adapters)


def test_the_least_recently_used_leaves_first(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        for digest in "abac":
            await use(cache, digest)
        assert cache.resident_bytes == 20
        return cache.resident

    assert run(work) == ("a", "c")


def test_bytes_are_counted_rather_than_adapters(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        await use(cache, "a")
        await use(cache, "b")
        files.size_bytes = 25
        await use(cache, "large")
        return cache.resident

    assert run(work) == ("large",)


def test_an_adapter_in_use_stays(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        await cache.pin("a")
        await use(cache, "b")
        await use(cache, "c")
        return cache.resident

    assert run(work) == ("a", "c")


def test_a_load_waits_for_room_before_it_reads(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        await cache.pin("a")
        await cache.pin("b")
        third = asyncio.create_task(cache.pin("c"))
        await until(lambda: files.opened[-1] == "c")
        await settle()
        assert not third.done()
        assert files.reads == ["a", "b"]
        assert cache.loading == 1
        cache.unpin("b")
        await third
        assert set(cache.resident) == {"a", "c"}
        assert cache.loading == 0

    run(work)


def test_what_is_read_at_once_never_takes_more_than_the_capacity(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        files.go.clear()
        files.size_bytes = 15
        loads = [asyncio.create_task(use(cache, digest)) for digest in "ab"]
        await until(lambda: len(files.opened) == 2 and files.reads != [])
        await settle()
        assert files.reads == ["a"]
        files.go.set()
        await asyncio.gather(*loads)
        assert cache.resident == ("b",)

    run(work)


def test_a_slow_read_does_not_hold_another_up_and_no_more_than_two_run(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        files.go.clear()
        files.size_bytes = 1
        loads = [asyncio.create_task(cache.pin(digest)) for digest in "abc"]
        await until(lambda: len(files.reads) == READS_AT_ONCE)
        await settle()
        assert len(files.reads) == READS_AT_ONCE == 2
        files.go.set()
        await asyncio.gather(*loads)

    run(work)


def test_a_large_adapter_is_not_passed_by_small_ones_for_ever(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        await cache.pin("a")
        files.size_bytes = 20
        large = asyncio.create_task(cache.pin("large"))
        await until(lambda: "large" in files.opened)
        await settle()
        files.size_bytes = 10
        small = asyncio.create_task(cache.pin("small"))
        await until(lambda: "small" in files.opened)
        await settle()
        assert files.reads == ["a"]
        cache.unpin("a")
        await large
        assert not small.done()
        cache.unpin("large")
        await small

    run(work)


def test_an_adapter_larger_than_the_cache_is_refused(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        files.size_bytes = 26
        with pytest.raises(AdapterInvalid, match="LORAMILL_ADAPTER_CACHE_BYTES"):
            await cache.pin("a")
        assert cache.resident == ()

    run(work)


@pytest.mark.parametrize("kind", ["refused", "mismatched", "damaged"])
def test_a_refused_adapter_is_looked_at_again_only_after_a_while(
    kind: str, files: FakeFiles, run: Run[Any], counts: LoadCounts, clock: FakeClock
) -> None:
    async def refused(cache: AdapterCache) -> str:
        with pytest.raises((AdapterInvalid, AdapterMismatch)) as caught:
            await cache.pin("a")
        return f"{type(caught.value).__name__}: {caught.value}"

    async def work(cache: AdapterCache) -> None:
        getattr(files, kind).add("a")
        first = await refused(cache)
        getattr(files, kind).clear()
        clock.now_s += REFUSED_FOR_S - 0.1
        assert [await refused(cache) for _ in range(10)] == [first] * 10
        assert files.opened == ["a"]
        assert (cache.resident, cache.loading) == ((), 0)
        clock.now_s += 0.1
        await cache.pin("a")
        assert cache.resident == ("a",)

    run(work)
    assert files.opened == ["a", "a"]
    assert counts.failures == {"adapter_mismatch" if kind == "mismatched" else "adapter_invalid": 1}


def test_one_refused_adapter_says_nothing_of_others(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        files.refused.add("a")
        with pytest.raises(AdapterInvalid):
            await cache.pin("a")
        await use(cache, "b")
        return cache.resident

    assert run(work) == ("b",)


def test_an_error_that_is_no_refusal_is_not_remembered(files: FakeFiles, run: Run[Any], counts: LoadCounts) -> None:
    async def work(cache: AdapterCache) -> None:
        files.size_bytes = None  # type: ignore[assignment]
        with pytest.raises(TypeError):
            await cache.pin("a")
        files.size_bytes = 10
        await cache.pin("a")

    run(work)
    assert counts.failures == {}


def test_room_of_a_failed_load_goes_to_the_next(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> None:
        files.size_bytes = 25
        files.damaged.add("a")
        for digest in "ab":
            with contextlib.suppress(AdapterInvalid):
                await cache.pin(digest)
        assert cache.resident == ("b",)

    run(work)


class TestDrop:
    def test_forgets_an_idle_adapter_at_once(self, files: FakeFiles, run: Run[Any], counts: LoadCounts) -> None:
        async def work(cache: AdapterCache) -> None:
            await use(cache, "a")
            cache.drop("a")
            assert (cache.resident, cache.resident_bytes) == ((), 0)
            await use(cache, "a")
            assert cache.resident == ("a",)

        run(work)
        assert files.reads == ["a", "a"]
        assert counts.evictions == 0

    def test_waits_for_requests_that_use_it_and_lets_those_that_were_told_of_it_in(
        self, files: FakeFiles, run: Run[Any]
    ) -> None:
        async def work(cache: AdapterCache) -> None:
            await cache.pin("a")
            cache.drop("a")
            assert cache.resident == ("a",)
            await cache.pin("a")
            cache.unpin("a")
            assert cache.resident == ("a",)
            cache.unpin("a")
            assert cache.resident_bytes == 0

        run(work)
        assert files.reads == ["a"]

    def test_of_one_that_is_fetched_serves_who_waits_and_keeps_nothing(self, files: FakeFiles, run: Run[Any]) -> None:
        async def work(cache: AdapterCache) -> None:
            files.go.clear()
            waiting = asyncio.create_task(cache.pin("a"))
            await until(lambda: files.reads == ["a"])
            assert (cache.resident, cache.loading) == ((), 1)
            cache.drop("a")
            files.go.set()
            assert (await waiting).digest == "a"
            assert cache.resident == ("a",)
            cache.unpin("a")
            assert cache.resident_bytes == 0

        run(work)

    def test_gives_room_to_who_waits_for_it(self, files: FakeFiles, run: Run[Any]) -> None:
        async def work(cache: AdapterCache) -> None:
            files.size_bytes = 25
            await cache.pin("a")
            waiting = asyncio.create_task(cache.pin("b"))
            await until(lambda: "b" in files.opened)
            cache.drop("a")
            await settle()
            assert not waiting.done()
            cache.unpin("a")
            await waiting

        run(work)

    def test_forgets_a_refusal_too(self, files: FakeFiles, run: Run[Any]) -> None:
        async def work(cache: AdapterCache) -> None:
            files.refused.add("a")
            with pytest.raises(AdapterInvalid):
                await cache.pin("a")
            files.refused.clear()
            cache.drop("a")
            await cache.pin("a")

        run(work)

    def test_of_an_absent_one_does_nothing(self, run: Run[Any]) -> None:
        async def work(cache: AdapterCache) -> None:
            cache.drop("a")

        run(work)


def test_reading_shares_nothing_out_over_cores_and_leaves_other_threads_as_they_are(
    files: FakeFiles, run: Run[Any]
) -> None:
    torch.set_num_threads(3)
    elsewhere: list[int] = []

    async def work(cache: AdapterCache) -> None:
        await asyncio.gather(*(use(cache, digest) for digest in "abc"))
        new = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        new.start()
        new.join()

    run(work)
    assert files.torch_threads == {1}
    assert (torch.get_num_threads(), elsewhere) == (3, [3])


def test_loads_and_evictions_are_counted(run: Run[Any], counts: LoadCounts) -> None:
    async def work(cache: AdapterCache) -> None:
        for digest in "abca":
            await use(cache, digest)

    run(work)
    assert (counts.loads, counts.loaded_bytes) == (4, 40)
    assert counts.evictions == 2


def test_a_caller_that_leaves_does_not_end_the_load_for_others(files: FakeFiles, run: Run[Any]) -> None:
    async def work(cache: AdapterCache) -> Adapter:
        files.go.clear()
        leaver, stayer = asyncio.create_task(cache.pin("a")), asyncio.create_task(cache.pin("a"))
        await settle()
        leaver.cancel()
        await settle()
        files.go.set()
        adapter = await stayer
        cache.unpin("a")
        # only the stayer's pin was left: now the adapter can be evicted
        await use(cache, "b")
        await use(cache, "c")
        assert "a" not in cache.resident
        return adapter

    assert run(work).digest == "a"


def test_a_closed_cache_reads_nothing_any_more(files: FakeFiles, counts: LoadCounts) -> None:
    async def run() -> None:
        before = set(threading.enumerate())
        cache = AdapterCache(files.open, 25, counts)
        files.go.clear()
        asked = asyncio.create_task(cache.pin("a"))
        await until(lambda: files.reads == ["a"])
        closing = asyncio.create_task(cache.close())
        await until(asked.done)
        await settle()
        assert not closing.done(), "a file is being read"
        files.go.set()
        await closing
        left = set(threading.enumerate()) - before
        assert not [thread.name for thread in left if thread.name.startswith("adapters")]

    asyncio.run(run())
