"""What an engine counts and measures, for Prometheus to fetch.

The loop, the adapter cache and the server report here; nothing is decided by these numbers. Labels take
few values, whatever happens: a name that is not short and plain, or is one too many, is counted as ``other``.
"""

import re
import threading
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from core.serving.generation import EngineInfo
from worker.inference.metrics.adapter_queue import AdapterQueue
from worker.inference.metrics.adapter_usage import AdapterUsage
from worker.inference.metrics.measured_gauge import MeasuredGauge
from worker.inference.metrics.step_metrics import StepMetrics

MOST_NAMES: Final = 16  # values of one label
OTHER: Final = "other"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")

# A step is 1 ms for a tiny model on a GPU, and seconds for a long prompt on a CPU.
_STEP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LOAD_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class EngineMetrics:
    """One engine's numbers, in a registry of its own. Any thread may report to any of them.

    An attribute is called as its metric is, after ``loramill_engine_``.

    Attributes:
        steps: what steps take and reach.
        usage: what each adapter read and wrote.
        queue: what waits for each adapter.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.usage = AdapterUsage()
        self.registry.register(self.usage)
        self.queue = AdapterQueue()
        self.registry.register(self.queue)
        ProcessCollector(namespace="loramill_engine", registry=self.registry)  # its memory, and more
        self.steps = StepMetrics(self.registry)
        self._make_steps()
        self._make_requests()
        self._make_adapters()
        self._make_load()

    def observe(self, info: EngineInfo) -> None:
        """Take over what the engine says of its load."""
        self.waiting_requests.set(info.waiting_requests)
        self.waiting_tokens.set(info.waiting_tokens)
        self.running_requests.set(info.running_requests)
        self.kv_reserved_bytes.set(info.kv_bytes)
        self.kv_limit_bytes.set(info.kv_limit_bytes)
        self.adapters.set(len(info.resident_adapters))
        self.adapter_bytes.set(info.resident_adapter_bytes)
        self.adapters_loading.set(info.loading_adapters)
        for gauge, measured in (
            (self.prefill_tokens_per_second, info.prefill_tokens_per_s),
            (self.decode_tokens_per_second, info.decode_tokens_per_s),
        ):
            if measured is not None:
                gauge.set(measured)

    def exposition(self) -> bytes:
        """Give all numbers in Prometheus' text format."""
        return generate_latest(self.registry)

    def _make_steps(self) -> None:
        self.step_seconds = self._histogram("step_seconds", "Length of a step.", _STEP_S)
        self.step_rows = self._histogram("step_rows", "Requests in a step.", _ROWS)
        self.prefill_tokens = self._counter("prefill_tokens", "Prompt tokens that were computed.")
        self.decode_tokens = self._counter("decode_tokens", "Tokens that were chosen.")
        self.failed_rows = self._counter("failed_rows", "Requests that a failing step ended.")
        self.last_step_timestamp_seconds = self._gauge(
            "last_step_timestamp_seconds", "Unix time when the loop last came round."
        )
        self.heartbeat_age_seconds = self._gauge(
            "heartbeat_age_seconds", "How long the present step has taken; 0 when idle."
        )

    def _make_requests(self) -> None:
        self.first_token_seconds = self._histogram("first_token_seconds", "Arrival to first token.", _FIRST_TOKEN_S)
        self.inter_token_seconds = self._histogram("inter_token_seconds", "Between two tokens of an answer.", _STEP_S)
        self.cached_prompt_tokens = self._counter("cached_prompt_tokens", "Prompt tokens whose computation was spared.")
        self.finished_requests = self._named("finished_requests", "Answers given whole, by how they ended.", "reason")
        self.rejected_requests = self._named("rejected_requests", "Requests not taken in, by limit.", "reason")
        self.cancelled_requests = self._named(
            "cancelled_requests", "Requests ended before their answer, by cause.", "cause"
        )

    def _make_adapters(self) -> None:
        self.adapter_load_seconds = self._histogram("adapter_load_seconds", "Reading and checking an adapter.", _LOAD_S)
        self.adapter_place_seconds = self._histogram(
            "adapter_place_seconds", "Waiting for an adapter's columns.", _LOAD_S
        )
        self.adapter_loaded_bytes = self._counter("adapter_loaded_bytes", "Bytes of adapters that were loaded.")
        self.adapter_evictions = self._counter("adapter_evictions", "Adapters given up to make room.")
        self.adapter_refusals = self._named("adapter_refusals", "Adapters refused, by what is wrong.", "reason")
        self.adapters = self._gauge("adapters", "Adapters in memory.")
        self.adapter_bytes = self._gauge("adapter_bytes", "Memory that adapters take.")
        self.adapters_loading = self._gauge("adapters_loading", "Adapters that are being read.")
        self.lora_columns_used = self._gauge("lora_columns_used", "Columns of the bank that hold factors.")
        self.lora_columns = self._gauge("lora_columns", "Columns of the bank.")

    def _make_load(self) -> None:
        self.waiting_requests = self._gauge("waiting_requests", "Requests that wait.")
        self.waiting_tokens = self._gauge("waiting_tokens", "Prompt tokens that wait.")
        self.running_requests = self._gauge("running_requests", "Requests that are answered.")
        self.kv_reserved_bytes = self._gauge("kv_reserved_bytes", "Keys and values reserved by running requests.")
        self.kv_used_bytes = self._gauge("kv_used_bytes", "Keys and values of running requests' tokens.")
        self.prefix_bytes = self._gauge("prefix_bytes", "Keys and values that are kept of answered prompts.")
        self.weight_bytes = self._gauge("weight_bytes", "The base model's linear layers, as they are held.")
        self.kv_limit_bytes = self._gauge("kv_limit_bytes", "What may be reserved.")
        self.prefill_tokens_per_second = self._measured(
            "prefill_tokens_per_second", "Prompt tokens per second of work, lately."
        )
        self.decode_tokens_per_second = self._measured(
            "decode_tokens_per_second", "Chosen tokens per second of work, lately."
        )
        self.callers_spread_tokens = self._gauge(
            "callers_spread_tokens", "Most served waiting caller less the least served."
        )

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"loramill_engine_{name}", meaning, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"loramill_engine_{name}", meaning, registry=self.registry)

    def _measured(self, name: str, meaning: str) -> MeasuredGauge:
        return MeasuredGauge(f"loramill_engine_{name}", meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"loramill_engine_{name}", meaning, buckets=bounds, registry=self.registry)

    def _named(self, name: str, meaning: str, label: str) -> "NamedCounter":
        return NamedCounter(Counter(f"loramill_engine_{name}", meaning, (label,), registry=self.registry))


class NamedCounter:
    """A counter by one label that takes few values, whatever it is told."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def labels(self, name: str) -> Counter:
        """Give the counter of a name, or that of all others."""
        with self._lock:
            if name not in self._names:
                if len(self._names) < MOST_NAMES and _NAME.fullmatch(name):
                    self._names.add(name)
                else:
                    name = OTHER
        return self._counter.labels(name)
