"""Keeps adapters in memory by digest, up to a number of bytes; the least recently used leave first.

An adapter is absent → fetching → verified → (draining →) absent. One that is refused is remembered as failed for a
few seconds, so that many requests for it cause one reading. Lives on the event loop, so its state needs no lock;
reading happens in threads, beside decoding. How an adapter is read and checked is given as a function; whether its
factors are in a step's columns is ``lora``'s matter.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from core.errors import AdapterInvalid, AdapterMismatch
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.native.serial_threads import serial_threads

# Two, so that one on a slow disk does not hold up another; more would take the processor from decoding.
READS_AT_ONCE: Final = 2
REFUSED_FOR_S: Final = 5.0

logger = logging.getLogger(__name__)


class Opened(Protocol):
    """An adapter of which it is known what it takes in memory, before its weights are read."""

    @property
    def bytes(self) -> int: ...

    def read(self) -> Adapter:
        """Read the weights.

        Raises:
            AdapterInvalid: they do not verify.
        """
        ...


class _State(Enum):
    """Of an adapter that is not absent."""

    FETCHING = "fetching"  # being read, or waiting for room
    VERIFIED = "verified"  # in memory, until its room is needed
    DRAINING = "draining"  # in memory, until its last user leaves


@dataclass
class _Entry:
    loading: asyncio.Task[Adapter]
    state: _State = _State.FETCHING
    pins: int = 0  # requests that wait for the adapter or use it
    bytes: int = 0  # in use or set aside; 0 until there was room
    is_unwanted: bool = False  # unloaded while it was fetched: it will not stay


@dataclass(frozen=True)
class _Failure:
    error: AdapterInvalid | AdapterMismatch
    retry_at_s: float  # by the cache's clock


class AdapterCache:
    """At most ``capacity_bytes`` of adapters, those being read included; one in use or waited for is never evicted."""

    def __init__(
        self,
        open_adapter: Callable[[str], Opened],
        capacity_bytes: int,
        metrics: EngineMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_adapter
        self._capacity_bytes = capacity_bytes
        self._metrics = metrics
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._failures: OrderedDict[str, _Failure] = OrderedDict()  # the first to be forgotten first
        self._threads = serial_threads(READS_AT_ONCE, "adapters")
        # One waits for room at a time, in the order they came: a large adapter is not passed by small ones for ever.
        self._room_turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def pin(self, digest: str) -> Adapter:
        """Give the adapter and keep it until ``unpin``; many callers of an absent one cause one load.

        Waits while adapters in use leave no room for it. One that was refused is refused again without a look for
        ``REFUSED_FOR_S``; files that were mended work after that.

        Raises:
            AdapterMismatch: it was made for another base model, or would be fed otherwise than in training.
            AdapterInvalid: it does not verify, or is larger than the whole cache.
        """
        self._raise_failure(digest)
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._entries[digest] = _Entry(asyncio.create_task(self._load(digest)))
            entry.loading.add_done_callback(_retrieve)
        self._entries.move_to_end(digest)
        entry.pins += 1
        try:
            # shielded: that one caller leaves must not end the load for the others
            return await asyncio.shield(entry.loading)
        except BaseException:
            self._release(digest, entry)
            raise

    def unpin(self, digest: str) -> None:
        """End one use of a pinned adapter; it stays until its room is needed, unless it was unloaded."""
        self._release(digest, self._entries[digest])

    def drop(self, digest: str) -> None:
        """Forget an adapter, or that it was refused, once no request uses it; requests that were told of it still may.

        It is loaded again for whoever asks after that.
        """
        self._failures.pop(digest, None)
        entry = self._entries.get(digest)
        if entry is None:
            return
        entry.is_unwanted = True
        if entry.state is not _State.FETCHING:
            entry.state = _State.DRAINING
            self._drop_if_drained(digest, entry)

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of the adapters in memory, least recently used first."""
        return tuple(digest for digest, entry in self._entries.items() if entry.state is not _State.FETCHING)

    @property
    def resident_bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries.values() if entry.state is not _State.FETCHING)

    @property
    def loading(self) -> int:
        """How many adapters are read, or wait for room."""
        return sum(entry.state is _State.FETCHING for entry in self._entries.values())

    async def close(self) -> None:
        """End the loads that are under way, those that are being read when they have been, and the threads."""
        loading = [entry.loading for entry in self._entries.values() if not entry.loading.done()]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _release(self, digest: str, entry: _Entry) -> None:
        entry.pins -= 1
        assert entry.pins >= 0, "an adapter was unpinned more often than pinned"
        self._drop_if_drained(digest, entry)
        self._freed.set()

    def _drop_if_drained(self, digest: str, entry: _Entry) -> None:
        # an entry whose load failed has left already, and another may stand in its place
        if entry.state is _State.DRAINING and entry.pins == 0 and self._entries.get(digest) is entry:
            del self._entries[digest]
            self._freed.set()
            logger.info("adapter %s unloaded", digest[:12])

    async def _load(self, digest: str) -> Adapter:
        began_s = self._clock()
        entry = self._entries[digest]
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.run_in_executor(self._threads, self._open, digest)
            async with self._room_turn:
                await self._make_room(digest, opened.bytes)
                entry.bytes = opened.bytes
            adapter = await loop.run_in_executor(self._threads, opened.read)
        except BaseException as error:
            del self._entries[digest]
            self._freed.set()
            if isinstance(error, AdapterInvalid | AdapterMismatch):
                self._remember(digest, error)
            logger.warning("adapter %s was not loaded: %s", digest[:12], error)
            raise
        entry.state = _State.DRAINING if entry.is_unwanted else _State.VERIFIED
        self._metrics.adapter_load_seconds.observe(self._clock() - began_s)
        self._metrics.adapter_loaded_bytes.inc(adapter.bytes)
        logger.info("adapter %s loaded, %d bytes", digest[:12], adapter.bytes)
        self._drop_if_drained(digest, entry)
        self._freed.set()  # whoever waits for room may have it, where nobody wants this one any more
        return adapter

    async def _make_room(self, digest: str, size_bytes: int) -> None:
        if size_bytes > self._capacity_bytes:
            raise AdapterInvalid(
                digest,
                f"it takes {size_bytes:,} bytes and the whole cache is {self._capacity_bytes:,}; "
                "raise LORAMILL_ADAPTER_CACHE_BYTES",
            )
        while sum(entry.bytes for entry in self._entries.values()) + size_bytes > self._capacity_bytes:
            idle = next((d for d, e in self._entries.items() if e.state is _State.VERIFIED and e.pins == 0), None)
            if idle is None:
                self._freed.clear()
                await self._freed.wait()
            else:
                del self._entries[idle]
                self._metrics.adapter_evictions.inc()
                logger.info("adapter %s evicted", idle[:12])

    def _remember(self, digest: str, error: AdapterInvalid | AdapterMismatch) -> None:
        self._metrics.adapter_refusals.labels(error.code).inc()
        self._failures[digest] = _Failure(error, self._clock() + REFUSED_FOR_S)

    def _raise_failure(self, digest: str) -> None:
        now_s = self._clock()
        while self._failures and next(iter(self._failures.values())).retry_at_s <= now_s:
            self._failures.popitem(last=False)
        failure = self._failures.get(digest)
        if failure is not None:
            # a new one each time: a raised error keeps the frames it came through
            raise type(failure.error)(*failure.error.args)


def _retrieve(loading: asyncio.Task[Adapter]) -> None:
    """Look at a load's error, which asyncio would report as overlooked where every caller has left."""
    if not loading.cancelled():
        loading.exception()
