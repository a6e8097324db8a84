"""How many tokens each adapter read and wrote, as a metric whose number of series stays small.

Knows only digests and counts; ``metrics`` registers it.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

SHOWN: Final = 32  # adapters with series of their own
PREFIX_LENGTH: Final = 12  # digits of a digest that name an adapter in logs and errors too
BASE_MODEL: Final = "none"
OTHER: Final = "other"


class AdapterUsage(Collector):
    """Counts tokens by adapter. Only the `SHOWN` used last are told apart; the sum over all is always whole.

    An adapter that has not been used for longest gives its place up, and its counts go to ``other``.
    Any thread may call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: OrderedDict[str, tuple[int, int]] = OrderedDict()  # prompt, completion; used last is last
        self._other = (0, 0)
        self._base_model = (0, 0)

    def count(self, adapter: str | None, prompt_tokens: int, completion_tokens: int) -> None:
        """Add one request's tokens. ``adapter`` is a digest; None is the base model."""
        added = (prompt_tokens, completion_tokens)
        with self._lock:
            if adapter is None:
                self._base_model = _sum(self._base_model, added)
                return
            name = adapter[:PREFIX_LENGTH]
            self._shown[name] = _sum(self._shown.get(name, (0, 0)), added)
            self._shown.move_to_end(name)
            if len(self._shown) > SHOWN:
                _, counts = self._shown.popitem(last=False)
                self._other = _sum(self._other, counts)

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            counts = {**self._shown, BASE_MODEL: self._base_model, OTHER: self._other}
        prompts = CounterMetricFamily(
            "loramill_engine_adapter_prompt_tokens", "Prompt tokens of answered requests.", labels=("adapter",)
        )
        completions = CounterMetricFamily(
            "loramill_engine_adapter_completion_tokens", "Tokens of given answers.", labels=("adapter",)
        )
        for name, (prompt_tokens, completion_tokens) in counts.items():
            prompts.add_metric((name,), prompt_tokens)
            completions.add_metric((name,), completion_tokens)
        return prompts, completions


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
