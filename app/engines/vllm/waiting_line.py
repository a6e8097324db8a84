"""Which requests are under way at a vLLM server and which wait: in fair turns, and no more of them than agreed.

vLLM itself queues without limit unless it is told to, first come first served. Turns and limits are
``core.serving``'s; what is known here is how many requests are under way, and how fast they leave.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.errors import EngineBusy
from core.ratio import ratio
from core.serving.admission import Limits, Load, Rate, busy
from core.serving.fairness import FairQueue, Key


@dataclass(frozen=True, eq=False)
class _Visit:
    prompt_tokens: int
    begins: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """At most ``max_running`` requests under way, and as many waiting as ``limits`` allow; used from one event loop."""

    def __init__(self, max_running: int, limits: Limits) -> None:
        self._max_running = max_running
        self._limits = limits
        self._queue: FairQueue[_Visit] = FairQueue()
        self._running: Counter[Key] = Counter()
        self._generated: Counter[Key] = Counter()  # since the queue was last told
        self._leaving = Rate()  # requests per second, as if all places were taken

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> Load:
        return Load(len(self._queue), sum(visit.prompt_tokens for visit in self._queue))

    def check_room(self) -> None:
        """See whether one more request may come.

        Raises:
            EngineBusy: it could not even wait.
        """
        self._limits.check(self.waiting, 0, self)

    def busy(self) -> EngineBusy:
        """Make the refusal of a request that got its turn, and for which there is no room at the server."""
        return busy(self.waiting, self)

    def seconds_for(self, requests: int, _prompt_tokens: int) -> float | None:
        """See ``core.serving.admission.Throughput``; what prompts take by themselves, vLLM does not tell."""
        return None if self._leaving.per_s is None else ratio(requests, self._leaving.per_s)

    def count(self, key: Key, tokens: int) -> None:
        """Count what was generated for a request that is under way."""
        self._generated[key] += tokens

    @asynccontextmanager
    async def turn(self, key: Key, prompt_tokens: int) -> AsyncIterator[None]:
        """Wait until a request may begin, and hold its place while it is under way.

        Raises:
            EngineBusy: as many wait as may.
        """
        self._limits.check(self.waiting, prompt_tokens, self)
        visit = _Visit(prompt_tokens)
        self._queue.add(visit, key, time.monotonic())
        self._let_in()
        try:
            await visit.begins.wait()
        except asyncio.CancelledError:
            if not self._queue.remove(visit):  # its turn came as it left
                self._leave(key)
            raise
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._leaving.note(1, (time.monotonic() - began_s) / self._max_running)
            self._leave(key)

    def _leave(self, key: Key) -> None:
        self._running[key] -= 1
        self._let_in()

    def _let_in(self) -> None:
        """Give places that are free to those whose turn it is."""
        self._running = +self._running  # without the lines of which none is left
        self._queue.account(self._generated, frozenset(self._running))
        self._generated.clear()
        while self.running < self._max_running:
            now_s = time.monotonic()
            ticket = self._queue.pop(now_s, ())
            if ticket is None:
                return
            self._queue.serve(ticket, ticket.item.prompt_tokens, now_s)
            self._running[ticket.key] += 1
            ticket.item.begins.set()
