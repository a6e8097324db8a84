"""Who may be under way at a vLLM server and who waits: callers in turn, and no longer a queue than agreed.

vLLM itself queues without limit unless it is told to, first come first served.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from core.errors import EngineBusy

_UNMEASURED_S: Final = 5  # until the first answer is complete
_LONGEST_S: Final = 300
_NEW_SHARE: Final = 0.2  # of one answer's time in the running mean


class Admission:
    """At most ``limit`` requests under way and ``max_waiting`` waiting; used from one event loop."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by caller, next one first
        self._mean_s: float | None = None
        self.running = 0
        self.waiting = 0

    @property
    def retry_after_s(self) -> int:
        """After how many seconds those that wait now will have begun, as fast as answers came lately."""
        if self._mean_s is None:
            return _UNMEASURED_S
        return min(max(math.ceil(self._mean_s * max(self.waiting, 1) / self._limit), 1), _LONGEST_S)

    def refuse_when_full(self) -> None:
        """Refuse a request that could not even wait.

        Raises:
            EngineBusy: as many wait as may.
        """
        if self.waiting >= self._max_waiting and self.running >= self._limit:
            raise EngineBusy(self.waiting, self.retry_after_s)

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait until a request may begin, and hold its place while it is under way.

        Raises:
            EngineBusy: as many wait as may.
        """
        self.refuse_when_full()
        if self.running < self._limit:
            self.running += 1
        else:
            await self._wait(caller)
        began = time.monotonic()
        try:
            yield
        finally:
            self._measure(time.monotonic() - began)
            self._pass_on()

    async def _wait(self, caller: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(place)
        self.waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # its turn came as it left
                self._pass_on()
            else:
                self._leave(caller, place)
            raise

    def _leave(self, caller: str, place: asyncio.Future[None]) -> None:
        self.waiting -= 1
        queue = self._queues[caller]
        queue.remove(place)
        if not queue:
            del self._queues[caller]

    def _pass_on(self) -> None:
        """Give a place that became free to the caller whose turn it is."""
        if not self._queues:
            self.running -= 1
            return
        caller, queue = self._queues.popitem(last=False)
        place = queue.popleft()
        if queue:
            self._queues[caller] = queue  # behind the others
        self.waiting -= 1
        place.set_result(None)

    def _measure(self, seconds: float) -> None:
        self._mean_s = seconds if self._mean_s is None else self._mean_s + _NEW_SHARE * (seconds - self._mean_s)
