"""Keeps adapters in memory by digest: absent → loading → resident, the least recently used leave first.

Lives on the event loop, so its state needs no lock; reading happens in threads, beside decoding.
How an adapter is read and checked is given as a function.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from core.errors import AdapterInvalid
from worker.inference.lora import Adapter

logger = logging.getLogger(__name__)


@dataclass
class _Entry:
    loading: asyncio.Task[Adapter]
    pins: int = 0  # requests that wait for the adapter or use it
    adapter: Adapter | None = field(default=None)  # None: still loading


class AdapterCache:
    """At most ``capacity_bytes`` of adapters; one that a request uses or waits for is never evicted."""

    def __init__(self, read: Callable[[str], Adapter], capacity_bytes: int) -> None:
        self._read = read
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        # One load at a time bounds memory to the capacity and one adapter.
        self._turn = asyncio.Lock()
        self._unpinned = asyncio.Event()

    async def pin(self, digest: str) -> Adapter:
        """Give the adapter and keep it until ``unpin``; many callers of an absent one cause one load.

        Waits while adapters in use leave no room for it.

        Raises:
            AdapterInvalid: it does not verify, or is larger than the whole cache.
        """
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._entries[digest] = _Entry(asyncio.create_task(self._load(digest)))
        self._entries.move_to_end(digest)
        entry.pins += 1
        try:
            # shielded: that one caller leaves must not end the load for the others
            return await asyncio.shield(entry.loading)
        except BaseException:
            self._release(entry)
            raise

    def unpin(self, digest: str) -> None:
        """End one use of a pinned adapter; it stays resident until its room is needed."""
        self._release(self._entries[digest])

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of the adapters in memory, least recently used first."""
        return tuple(digest for digest, entry in self._entries.items() if entry.adapter is not None)

    @property
    def resident_bytes(self) -> int:
        return sum(entry.adapter.bytes for entry in self._entries.values() if entry.adapter is not None)

    async def close(self) -> None:
        """End the loads that are under way."""
        loading = [entry.loading for entry in self._entries.values() if not entry.loading.done()]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)

    def _release(self, entry: _Entry) -> None:
        entry.pins -= 1
        assert entry.pins >= 0, "an adapter was unpinned more often than pinned"
        self._unpinned.set()

    async def _load(self, digest: str) -> Adapter:
        try:
            async with self._turn:
                adapter = await asyncio.to_thread(self._read, digest)
                await self._make_room(adapter)
                self._entries[digest].adapter = adapter
        except BaseException as error:
            # forgotten, so that the next request tries again: the files may have been mended
            del self._entries[digest]
            logger.warning("adapter %s was not loaded: %s", digest[:12], error)
            raise
        logger.info("adapter %s loaded, %d bytes", digest[:12], adapter.bytes)
        return adapter

    async def _make_room(self, adapter: Adapter) -> None:
        if adapter.bytes > self._capacity_bytes:
            raise AdapterInvalid(
                adapter.digest,
                f"it takes {adapter.bytes:,} bytes and the whole cache is {self._capacity_bytes:,}; "
                "raise LORAMILL_ADAPTER_CACHE_BYTES",
            )
        while self.resident_bytes + adapter.bytes > self._capacity_bytes:
            idle = next((d for d, e in self._entries.items() if e.adapter is not None and e.pins == 0), None)
            if idle is None:
                self._unpinned.clear()
                await self._unpinned.wait()
            else:
                del self._entries[idle]
                logger.info("adapter %s evicted", idle[:12])
