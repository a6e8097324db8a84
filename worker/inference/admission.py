"""Whether a request may wait here, and when one that may not should come again: limits, and the measured speed.

Knows how many requests and tokens wait, not who they are or in which order they go.
"""

import math
from dataclasses import dataclass
from typing import Final

from core.errors import EngineBusy

# Seconds of work after which an old measurement counts for a third (e⁻¹).
MEMORY_S: Final = 20.0


class Rate:
    """Tokens per second of work, lately: older work fades as new work is done, not as time passes."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def per_s(self) -> float:
        """0 before anything was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def note(self, tokens: int, seconds: float) -> None:
        fade = math.exp(-seconds / MEMORY_S)
        self._tokens = fade * self._tokens + tokens
        self._seconds = fade * self._seconds + seconds


class Speed:
    """How fast prompts are read and answers are written, and how long answers are."""

    def __init__(self) -> None:
        self._prefill = Rate()
        self._decode = Rate()
        self._answers = Rate()  # of tokens per answer, which fades with the answers

    @property
    def prefill_tokens_per_s(self) -> float:
        return self._prefill.per_s

    @property
    def decode_tokens_per_s(self) -> float:
        return self._decode.per_s

    def note_step(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        """Take a step into account; one that did both kinds of work is divided by its tokens."""
        total = prefill_tokens + decode_tokens
        for rate, tokens in ((self._prefill, prefill_tokens), (self._decode, decode_tokens)):
            if tokens:
                rate.note(tokens, seconds * tokens / total)

    def note_answer(self, completion_tokens: int) -> None:
        self._answers.note(completion_tokens, 1.0)

    def seconds_for(self, requests: int, prompt_tokens: int) -> float:
        """Estimate what waiting requests take, by the length that answers had lately; 0 where nothing is known."""
        prefill = prompt_tokens / self._prefill.per_s if self._prefill.per_s else 0.0
        decode = requests * self._answers.per_s / self._decode.per_s if self._decode.per_s else 0.0
        return prefill + decode


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

    def check(self, load: Load, prompt_tokens: int, speed: Speed) -> None:
        """See whether one more request with so long a prompt may wait; 0 where it is not known yet.

        Raises:
            EngineBusy: it may not, with the time after which there is room for it.
        """
        requests_over = load.requests + 1 - self.requests
        tokens_over = min(load.prompt_tokens + prompt_tokens - self.prompt_tokens, load.prompt_tokens)
        if requests_over <= 0 and (tokens_over <= 0 or not load.requests):
            return
        # the part of what waits that has to go before there is room
        share = max(
            requests_over / load.requests if load.requests else 1.0,
            tokens_over / load.prompt_tokens if load.prompt_tokens else 0.0,
        )
        seconds = min(share, 1.0) * speed.seconds_for(load.requests, load.prompt_tokens)
        raise EngineBusy(load.requests, max(1, math.ceil(seconds)))
