"""Who is next: a line for each caller and adapter, and of the lines the one that was served the fewest tokens.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (2401.00588), with a bound on
how long a line can be passed over. Knows neither what a request needs nor whether there is room for it.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

PROMPT_WEIGHT: Final = 1
GENERATED_WEIGHT: Final = 2  # the paper's: a generated token costs a step, a prompt's shares one with others
PATIENCE_S: Final = 10.0  # what a line is passed over at most, if there is room at all

T = TypeVar("T")


class Key(NamedTuple):
    """Whose requests a line holds. ``adapter`` is a digest; None is the base model."""

    caller: str
    adapter: str | None


@dataclass(frozen=True)
class Ticket(Generic[T]):
    """A request that waits: its line, and when it became the line's turn to wait for."""

    item: T
    key: Key
    since_s: float


@dataclass
class _Line(Generic[T]):
    counter: float
    served_s: float = 0.0
    waiting: deque[Ticket[T]] = field(default_factory=deque)

    @property
    def passed_over_since_s(self) -> float:
        """When the line last was served, or began to wait: a long backlog of one caller is no reason to hurry."""
        return max(self.served_s, self.waiting[0].since_s)


class FairQueue(Generic[T]):
    """Waiting requests. Not safe between threads: where there are several, its owner guards it with a lock.

    A line is active while a request of it waits or runs. One that becomes active begins no lower than the active
    ones' smallest counter, so that nobody saves up turns by being away.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lines: dict[Key, _Line[T]] = {}
        self._running: Collection[Key] = ()

    def __len__(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    def __iter__(self) -> Iterator[T]:
        return (ticket.item for line in self._lines.values() for ticket in line.waiting)

    @property
    def spread(self) -> float:
        """Tokens between the most and the least served line that waits."""
        counters = [line.counter for line in self._lines.values() if line.waiting]
        return max(counters) - min(counters) if counters else 0.0

    def add(self, item: T, key: Key, now_s: float) -> None:
        line = self._lines.get(key)
        if line is None or not self._is_active(key):
            line = self._activate(key)
        line.waiting.append(Ticket(item, key, now_s))

    def remove(self, item: T) -> bool:
        """Take a request out that will not be answered; False where it does not wait."""
        for line in self._lines.values():
            for ticket in line.waiting:
                if ticket.item is item:
                    line.waiting.remove(ticket)
                    return True
        return False

    def pop(self, now_s: float, passed: Collection[Key]) -> Ticket[T] | None:
        """Take out whose turn it is; None where nobody's is.

        ``passed`` names the lines for whose first request there is no room at present. Others go before them, until
        the one that waits the longest has lost patience: then room is saved up for it.
        """
        lines = {key: line for key, line in self._lines.items() if line.waiting}
        if not lines:
            return None
        oldest = min(lines, key=lambda key: lines[key].passed_over_since_s)
        if now_s - lines[oldest].passed_over_since_s > self._patience_s:
            return None if oldest in passed else lines[oldest].waiting.popleft()
        open_lines = [key for key in lines if key not in passed]
        if not open_lines:
            return None
        least = min(open_lines, key=lambda key: (lines[key].counter, lines[key].passed_over_since_s))
        return lines[least].waiting.popleft()

    def put_back(self, ticket: Ticket[T]) -> None:
        """Give a request its place in front of its line again."""
        self._lines[ticket.key].waiting.appendleft(ticket)

    def serve(self, ticket: Ticket[T], prompt_tokens: int, now_s: float) -> None:
        """Count a request that has begun to be answered; ``prompt_tokens`` of its prompt have to be computed."""
        line = self._lines[ticket.key]
        line.counter += PROMPT_WEIGHT * prompt_tokens
        line.served_s = now_s
        self._running = {*self._running, ticket.key}

    def account(self, generated: Mapping[Key, int], running: Collection[Key]) -> None:
        """Count what was generated since the last time, and note whose requests run now."""
        for key, tokens in generated.items():
            self._lines[key].counter += GENERATED_WEIGHT * tokens
        self._running = running
        self._forget()

    def clear(self) -> list[T]:
        """Take everything out."""
        items = list(self)
        self._lines.clear()
        return items

    def _is_active(self, key: Key) -> bool:
        return key in self._running or bool(self._lines[key].waiting)

    def _activate(self, key: Key) -> _Line[T]:
        line = self._lines.setdefault(key, _Line(0.0))
        line.counter = max(line.counter, self._floor())
        return line

    def _floor(self) -> float:
        """The smallest counter of the active lines; 0 without any."""
        return min((line.counter for key, line in self._lines.items() if self._is_active(key)), default=0.0)

    def _forget(self) -> None:
        """Drop the lines that would begin at the floor anyway; with nobody active a new reckoning begins."""
        active = [key for key in self._lines if self._is_active(key)]
        floor = self._floor() if active else float("inf")
        keep = set(active)
        self._lines = {key: line for key, line in self._lines.items() if key in keep or line.counter > floor}
