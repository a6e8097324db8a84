"""What waits for each adapter, as a metric whose number of series stays small.

Knows only digests and counts; ``metrics`` registers it.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.serving.admission import Load
from worker.inference.metrics.adapter_usage import BASE_MODEL, OTHER, PREFIX_LENGTH, SHOWN


class AdapterQueue(Collector):
    """The queue as it was told last. Only the `SHOWN` adapters for which most tokens wait are told apart."""

    def __init__(self) -> None:
        self._waiting: Mapping[str | None, Load] = {}  # replaced, so that another thread may read it

    def show(self, waiting: Mapping[str | None, Load]) -> None:
        """Take over what waits, by the adapter's digest; None is the base model."""
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        loads = _by_name(self._waiting)
        requests = GaugeMetricFamily(
            "loramill_engine_queued_requests", "Requests that wait for a row, by adapter.", labels=("adapter",)
        )
        tokens = GaugeMetricFamily(
            "loramill_engine_queued_tokens", "Prompt tokens that wait for a row, by adapter.", labels=("adapter",)
        )
        for name, load in loads.items():
            requests.add_metric((name,), load.requests)
            tokens.add_metric((name,), load.prompt_tokens)
        return requests, tokens


def _by_name(waiting: Mapping[str | None, Load]) -> dict[str, Load]:
    adapters = [(load, digest) for digest, load in waiting.items() if digest is not None]
    adapters.sort(key=lambda found: found[0].prompt_tokens, reverse=True)
    names = {digest[:PREFIX_LENGTH]: load for load, digest in adapters[:SHOWN]}
    rest = [load for load, _ in adapters[SHOWN:]]
    return {
        **names,
        BASE_MODEL: waiting.get(None, Load(0, 0)),
        OTHER: Load(sum(load.requests for load in rest), sum(load.prompt_tokens for load in rest)),
    }
