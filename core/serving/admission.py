"""Admission: whether a request may wait, and when one that may not should come again; limits and measured throughput.

Knows how many requests and tokens wait, not who they are or in which order they go.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol

from core.errors import EngineBusy
from core.ratio import ratio

# Seconds of work after which an old measurement counts for a third (e⁻¹).
MEMORY_S: Final = 20.0


class Rate:
    """How much is done per second of work, lately: older work fades as new work is done, not as time passes."""

    def __init__(self) -> None:
        self._done = 0.0
        self._seconds = 0.0

    @property
    def per_s(self) -> float | None:
        """None before anything was measured."""
        return ratio(self._done, self._seconds)

    def note(self, done: int, seconds: float) -> None:
        fade = math.exp(-seconds / MEMORY_S)
        self._done = fade * self._done + done
        self._seconds = fade * self._seconds + seconds


class Throughput(Protocol):
    """How fast requests are answered lately."""

    def seconds_for(self, requests: int, prompt_tokens: int) -> float | None:
        """Estimate what so many waiting requests, with so many prompt tokens in all, take; None: it is not known."""
        ...


@dataclass(frozen=True)
class Load:
    """What waits: requests, and the tokens of those prompts that are known."""

    requests: int
    prompt_tokens: int


@dataclass(frozen=True)
class Limits:
    """What may wait. A prompt longer than ``prompt_tokens`` may still wait alone, or it could never be answered."""

    requests: int
    prompt_tokens: int

    def check(self, load: Load, prompt_tokens: int, throughput: Throughput) -> None:
        """See whether one more request with so long a prompt may wait; 0 where it is not known yet.

        Raises:
            EngineBusy: it may not, with the time after which there is room for it.
        """
        requests_over = load.requests + 1 - self.requests
        tokens_over = min(load.prompt_tokens + prompt_tokens - self.prompt_tokens, load.prompt_tokens)
        if requests_over <= 0 and (tokens_over <= 0 or not load.requests):
            return
        # the part of what waits that has to go before there is room
        of_requests, of_tokens = ratio(requests_over, load.requests), ratio(tokens_over, load.prompt_tokens)
        share = max(1.0 if of_requests is None else of_requests, of_tokens or 0.0)
        raise busy(load, throughput, min(share, 1.0))


def busy(load: Load, throughput: Throughput, share: float = 1.0) -> EngineBusy:
    """Make the refusal of a request for which there is room once ``share`` of what waits has gone.

    Where nothing was measured yet, nobody knows when that is, and the client is told to look again in a second.
    """
    seconds = throughput.seconds_for(load.requests, load.prompt_tokens)
    return EngineBusy(load.requests, 1 if seconds is None else max(1, math.ceil(share * seconds)))
