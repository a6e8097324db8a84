"""The adapter cache by itself: one load per digest, least recently used first out, never one in use."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from core.errors import AdapterInvalid
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.byte_tokenizer import write_byte_tokenizer
from worker.inference.adapters import AdapterCache
from worker.inference.lora import Adapter

T = TypeVar("T")


class FakeReader:
    """Gives adapters of ten bytes; can be held up, and told to refuse."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.reads: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.refused: set[str] = set()
        self.size_bytes = 10

    def __call__(self, digest: str) -> Adapter:
        self.reads.append(digest)
        assert self.go.wait(timeout=30)
        if digest in self.refused:
            raise AdapterInvalid(digest, "refused")
        return Adapter(digest, {}, self._renderer, self.size_bytes)


@pytest.fixture
def reader(tmp_path: Path) -> FakeReader:
    write_byte_tokenizer(tmp_path)
    return FakeReader(Renderer(TextTokenizer.from_folder(tmp_path)))


def run(reader: FakeReader, work: Callable[[AdapterCache], Awaitable[T]], *, capacity_bytes: int = 25) -> T:
    async def with_cache() -> T:
        cache = AdapterCache(reader, capacity_bytes)
        try:
            return await work(cache)
        finally:
            reader.go.set()
            await cache.close()

    return asyncio.run(with_cache())


async def use(cache: AdapterCache, digest: str) -> None:
    await cache.pin(digest)
    cache.unpin(digest)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_many_requests_for_one_adapter_cause_one_load(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> list[Adapter]:
        return [*await asyncio.gather(*(cache.pin("a") for _ in range(5)))]

    adapters = run(reader, work)
    assert reader.reads == ["a"]
    assert all(adapter is adapters[0] for adapter in adapters)


def test_the_least_recently_used_leaves_first(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        for digest in "abac":
            await use(cache, digest)
        assert cache.resident_bytes == 20
        return cache.resident

    assert run(reader, work) == ("a", "c")


def test_bytes_are_counted_rather_than_adapters(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        await use(cache, "a")
        await use(cache, "b")
        reader.size_bytes = 25
        await use(cache, "large")
        return cache.resident

    assert run(reader, work) == ("large",)


def test_an_adapter_in_use_stays(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> tuple[str, ...]:
        await cache.pin("a")
        await use(cache, "b")
        await use(cache, "c")
        return cache.resident

    assert run(reader, work) == ("a", "c")


def test_a_load_waits_until_a_pinned_adapter_makes_room(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> None:
        await cache.pin("a")
        await cache.pin("b")
        third = asyncio.create_task(cache.pin("c"))
        while reader.reads[-1] != "c":
            await asyncio.sleep(0.001)
        await settle()
        assert not third.done()
        assert set(cache.resident) == {"a", "b"}
        cache.unpin("b")
        await third
        assert set(cache.resident) == {"a", "c"}

    run(reader, work)


def test_an_adapter_larger_than_the_cache_is_refused(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> None:
        reader.size_bytes = 26
        with pytest.raises(AdapterInvalid, match="LORAMILL_ADAPTER_CACHE_BYTES"):
            await cache.pin("a")
        assert cache.resident == ()

    run(reader, work)


def test_a_refused_adapter_is_read_again_once_mended(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> None:
        reader.refused.add("a")
        with pytest.raises(AdapterInvalid):
            await cache.pin("a")
        reader.refused.clear()
        await cache.pin("a")

    run(reader, work)
    assert reader.reads == ["a", "a"]


def test_a_caller_that_leaves_does_not_end_the_load_for_others(reader: FakeReader) -> None:
    async def work(cache: AdapterCache) -> Adapter:
        reader.go.clear()
        leaver, stayer = asyncio.create_task(cache.pin("a")), asyncio.create_task(cache.pin("a"))
        await settle()
        leaver.cancel()
        await settle()
        reader.go.set()
        adapter = await stayer
        cache.unpin("a")
        # only the stayer's pin was left: now the adapter can be evicted
        await use(cache, "b")
        await use(cache, "c")
        assert "a" not in cache.resident
        return adapter

    assert run(reader, work).digest == "a"
