"""How many connections a server holds, and which one leaves where there is no room: the one that has said nothing.

Knows neither HTTP nor sockets; ``core.listening.protocol`` tells it which connections wait for their client.
"""

import ipaddress
import logging
import resource
import time
from collections import Counter
from typing import Final, Protocol

_OTHER_DESCRIPTORS: Final = 64  # database, logs, pipes, threads' files
_MOST_DESCRIPTORS: Final = 2**15  # where the system has no limit, or a very large one
_FEWEST: Final = 8
_LONGEST_BACKLOG: Final = 512
_TOLD_EVERY_S: Final = 60.0

logger = logging.getLogger(__name__)


class Endable(Protocol):
    """A connection as it is counted here. ``address`` is None on a Unix socket."""

    address: str | None

    def abandon(self) -> None:
        """Close at once, without a word."""
        ...


def descriptors() -> int:
    """Give how many files and sockets this process may have open at once."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)


def backlog(descriptors: int) -> int:
    """Give how many connections may wait to be accepted.

    asyncio accepts so many in one go, before any of them is counted. Without descriptors for them it logs an error
    for each that fails, and goes on failing.
    """
    return max(_FEWEST, min(_LONGEST_BACKLOG, (descriptors - _OTHER_DESCRIPTORS) // 8))


def most_connections(descriptors: int) -> int:
    """Give how many connections leave descriptors for one more each: a stored file, or a connection to an engine.

    Twice the backlog is kept free: for those that are just accepted, and those that just left for them.
    """
    return max(_FEWEST, (descriptors - _OTHER_DESCRIPTORS - 2 * backlog(descriptors)) // 2)


def network_of(address: str) -> str:
    """Give what counts as one address: of IPv6 the /64, in which one machine chooses its address freely."""
    parsed = ipaddress.ip_address(address)
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))


class Connections:
    """All connections of one server. Lives in its event loop's thread."""

    def __init__(self, most: int, most_per_address: int | None = None) -> None:
        """Hold so many; None: as many from one address as there is room for."""
        self._most = most
        self._most_per_address = most_per_address
        self._open: set[Endable] = set()
        self._waiting: dict[Endable, None] = {}  # the one that waits longest is first
        self._by_address: Counter[str] = Counter()
        self.tally = ConnectionTally()

    def admit(self, connection: Endable) -> bool:
        """Take a connection in, if need be in the place of one that waits; False: there is no room for it."""
        address = connection.address
        if address is not None and self._by_address[address] == self._most_per_address:
            place = next((other for other in self._waiting if other.address == address), None)
            return self._admit_for(place, connection, f"from {address}")
        if len(self._open) >= self._most:
            return self._admit_for(next(iter(self._waiting), None), connection, "in all")
        self._add(connection)
        return True

    def wait(self, connection: Endable) -> None:
        """Note that the connection now waits for its client, and that nobody would miss it."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def work(self, connection: Endable) -> None:
        """Note that a request of the connection is under way."""
        self._waiting.pop(connection, None)

    def leave(self, connection: Endable) -> None:
        """Forget a connection; one that has left already may leave again."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._open.remove(connection)
            if connection.address is not None:
                self._by_address[connection.address] -= 1
                self._by_address += Counter()  # drops those that are zero

    def _admit_for(self, place: Endable | None, connection: Endable, where: str) -> bool:
        if place is None:
            self.tally.count(f"refused, as all {len(self._open)} {where} were busy")
            return False
        self.tally.count(f"closed while silent, to make room ({where})")
        self.leave(place)
        place.abandon()
        self._add(connection)
        return True

    def _add(self, connection: Endable) -> None:
        self._open.add(connection)
        if connection.address is not None:
            self._by_address[connection.address] += 1


class ConnectionTally:
    """Counts what befell connections, and logs it at most once a minute, however many there are."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told_s: float | None = None

    def count(self, what: str) -> None:
        self._counts[what] += 1
        now_s = time.monotonic()
        if self._told_s is None or now_s - self._told_s >= _TOLD_EVERY_S:
            logger.warning("connections: %s", "; ".join(f"{count} {what}" for what, count in self._counts.items()))
            self._counts.clear()
            self._told_s = now_s
