"""What an engine counts and measures, for Prometheus to fetch.

The loop, the adapter cache and the server report here; nothing is decided by these numbers. Labels take
few values, whatever happens: a name that is not short and plain, or is one too many, is counted as ``other``.
"""

import re
import threading
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.serving.admission import Load
from core.serving.generation import EngineInfo
from worker.inference.metrics.adapter_queue import AdapterQueue
from worker.inference.metrics.adapter_usage import AdapterUsage
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
    """One engine's numbers, in a registry of its own. Any thread may call any method.

    Attributes:
        steps: what steps take and reach.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._usage = AdapterUsage()
        self.registry.register(self._usage)
        self._queue = AdapterQueue()
        self.registry.register(self._queue)
        self.steps = StepMetrics(self.registry)
        self._make_steps()
        self._make_requests()
        self._make_adapters()
        self._make_state()

    def step(self, seconds: float, prefill_tokens: int, decode_tokens: int, rows: int) -> None:
        """Tell one step: how long it took, the prompt tokens it read, the tokens it chose, the rows it had."""
        self._step_seconds.observe(seconds)
        self._step_rows.observe(rows)
        self._prefill_tokens.inc(prefill_tokens)
        self._decode_tokens.inc(decode_tokens)

    def heartbeat(self) -> None:
        """Tell that the loop has come round."""
        self._last_step.set_to_current_time()

    def first_token(self, seconds: float) -> None:
        """Tell a request's time from its arrival to its first token."""
        self._first_token.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        """Tell the time between two tokens of one answer."""
        self._between_tokens.observe(seconds)

    def finished(
        self, reason: str, adapter: str | None, prompt_tokens: int, completion_tokens: int, cached_tokens: int
    ) -> None:
        """Tell an answer's end. ``adapter`` is a digest or None; ``cached_tokens`` of the prompt were not computed."""
        self._finished.count(reason)
        self._cached_tokens.inc(cached_tokens)
        self._usage.count(adapter, prompt_tokens, completion_tokens)

    def rejected(self, reason: str) -> None:
        """Tell that a request was not taken in; ``reason`` is a short name of the limit."""
        self._rejected.count(reason)

    def cancelled(self, cause: str) -> None:
        """Tell that a request ended before its answer; ``cause`` is a short name."""
        self._cancelled.count(cause)

    def failed_rows(self, n: int) -> None:
        """Tell that a step failed and took this many requests with it."""
        self._failed_rows.inc(n)

    def loaded(self, seconds: float, size_bytes: int) -> None:
        """Tell that an adapter was read and checked, and what it takes in memory."""
        self._load_seconds.observe(seconds)
        self._loaded_bytes.inc(size_bytes)

    def placed(self, seconds: float) -> None:
        """Tell how long rows waited until an adapter's factors stood in the bank."""
        self._place_seconds.observe(seconds)

    def evicted(self) -> None:
        """Tell that an adapter was given up to make room."""
        self._evictions.inc()

    def verify_failed(self, reason: str) -> None:
        """Tell that an adapter was refused; ``reason`` is a short name of what is wrong with it."""
        self._verify_failures.count(reason)

    def columns(self, used: int, total: int) -> None:
        """Tell how many columns of the bank hold adapters' factors."""
        self._columns_used.set(used)
        self._columns.set(total)

    def cached(self, used_bytes: int, prefix_bytes: int) -> None:
        """Tell the bytes of running requests' keys and values, and of those that are kept of answered prompts."""
        self._kv_used_bytes.set(used_bytes)
        self._prefix_bytes.set(prefix_bytes)

    def waiting(self, by_adapter: Mapping[str | None, Load]) -> None:
        """Tell what waits, by the adapter's digest; None is the base model."""
        self._queue.show(by_adapter)

    def callers_spread(self, tokens: float) -> None:
        """Tell how far apart the waiting callers' token counters are: the most served less the least."""
        self._spread.set(tokens)

    def observe(self, info: EngineInfo) -> None:
        """Take over what the engine says of its load."""
        self._waiting_requests.set(info.waiting_requests)
        self._waiting_tokens.set(info.waiting_tokens)
        self._running_requests.set(info.running_requests)
        self._kv_bytes.set(info.kv_bytes)
        self._kv_limit_bytes.set(info.kv_limit_bytes)
        self._adapters.set(len(info.resident_adapters))
        self._adapter_bytes.set(info.resident_adapter_bytes)
        self._adapters_loading.set(info.loading_adapters)
        self._prefill_speed.set(info.prefill_tokens_per_s)
        self._decode_speed.set(info.decode_tokens_per_s)

    def exposition(self) -> bytes:
        """Give all numbers in Prometheus' text format."""
        return generate_latest(self.registry)

    def _make_steps(self) -> None:
        self._step_seconds = self._histogram("step_seconds", "Length of a step.", _STEP_S)
        self._step_rows = self._histogram("step_rows", "Requests in a step.", _ROWS)
        self._prefill_tokens = self._counter("prefill_tokens", "Prompt tokens that were computed.")
        self._decode_tokens = self._counter("decode_tokens", "Tokens that were chosen.")
        self._failed_rows = self._counter("failed_rows", "Requests that a failing step ended.")
        self._last_step = self._gauge("last_step_timestamp_seconds", "Unix time when the loop last came round.")
        self.heartbeat_age_seconds = self._gauge(
            "heartbeat_age_seconds", "How long the present step has taken; 0 when idle."
        )

    def _make_requests(self) -> None:
        self._first_token = self._histogram("first_token_seconds", "Arrival to first token.", _FIRST_TOKEN_S)
        self._between_tokens = self._histogram("inter_token_seconds", "Between two tokens of an answer.", _STEP_S)
        self._cached_tokens = self._counter("cached_prompt_tokens", "Prompt tokens whose computation was spared.")
        self._finished = self._named("finished_requests", "Answers given whole, by how they ended.", "reason")
        self._rejected = self._named("rejected_requests", "Requests not taken in, by limit.", "reason")
        self._cancelled = self._named("cancelled_requests", "Requests ended before their answer, by cause.", "cause")

    def _make_adapters(self) -> None:
        self._load_seconds = self._histogram("adapter_load_seconds", "Reading and checking an adapter.", _LOAD_S)
        self._place_seconds = self._histogram("adapter_place_seconds", "Waiting for an adapter's columns.", _LOAD_S)
        self._loaded_bytes = self._counter("adapter_loaded_bytes", "Bytes of adapters that were loaded.")
        self._evictions = self._counter("adapter_evictions", "Adapters given up to make room.")
        self._verify_failures = self._named("adapter_refusals", "Adapters refused, by what is wrong.", "reason")
        self._adapters = self._gauge("adapters", "Adapters in memory.")
        self._adapter_bytes = self._gauge("adapter_bytes", "Memory that adapters take.")
        self._adapters_loading = self._gauge("adapters_loading", "Adapters that are being read.")
        self._columns_used = self._gauge("lora_columns_used", "Columns of the bank that hold factors.")
        self._columns = self._gauge("lora_columns", "Columns of the bank.")

    def _make_state(self) -> None:
        self._waiting_requests = self._gauge("waiting_requests", "Requests that wait.")
        self._waiting_tokens = self._gauge("waiting_tokens", "Prompt tokens that wait.")
        self._running_requests = self._gauge("running_requests", "Requests that are answered.")
        self._kv_bytes = self._gauge("kv_reserved_bytes", "Keys and values reserved by running requests.")
        self._kv_used_bytes = self._gauge("kv_used_bytes", "Keys and values of running requests' tokens.")
        self._prefix_bytes = self._gauge("prefix_bytes", "Keys and values that are kept of answered prompts.")
        self._kv_limit_bytes = self._gauge("kv_limit_bytes", "What may be reserved.")
        self._prefill_speed = self._gauge("prefill_tokens_per_second", "Prompt tokens per second of work, lately.")
        self._decode_speed = self._gauge("decode_tokens_per_second", "Chosen tokens per second of work, lately.")
        self._spread = self._gauge("callers_spread_tokens", "Most served waiting caller less the least served.")

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"loramill_engine_{name}", meaning, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"loramill_engine_{name}", meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"loramill_engine_{name}", meaning, buckets=bounds, registry=self.registry)

    def _named(self, name: str, meaning: str, label: str) -> "_NamedCounts":
        return _NamedCounts(Counter(f"loramill_engine_{name}", meaning, (label,), registry=self.registry))


class _NamedCounts:
    """A counter with one label that takes few values."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def count(self, name: str) -> None:
        with self._lock:
            if name not in self._names:
                if len(self._names) < MOST_NAMES and _NAME.fullmatch(name):
                    self._names.add(name)
                else:
                    name = OTHER
        self._counter.labels(name).inc()
