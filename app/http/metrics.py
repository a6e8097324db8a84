"""What an API process counts and measures of the requests it answers, for Prometheus to fetch.

Knows requests by route, method and status only; what an engine does, the engine counts.
"""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Message, Scope

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE: Final = "none"  # one label for all paths that nobody serves, because anyone can think up paths
_OTHER_METHOD: Final = "other"
_STREAM: Final = b"text/event-stream"
_RESPONSE_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class RequestMetrics:
    """One API process's numbers, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "loramill_api_requests",
            "Requests, by how they were answered; status 0: the client left before that.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.response_seconds = Histogram(
            "loramill_api_response_seconds",
            "From a request's arrival to its response's beginning; a stream begins with its first event.",
            ("route",),
            buckets=_RESPONSE_S,
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "loramill_api_open_requests", "Requests that are being answered.", registry=self.registry
        )
        self.open_streams = Gauge("loramill_api_open_streams", "Streams of events under way.", registry=self.registry)

    def exposition(self) -> bytes:
        """Give all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class OpenRequest:
    """One request, from its arrival, when this is made, to its response's last byte, when `end` must be called."""

    def __init__(self, metrics: RequestMetrics, scope: Scope) -> None:
        self._metrics = metrics
        self._scope = scope
        self._started_s = time.perf_counter()
        self._is_stream = False
        self.status = 0  # 0: no response was begun
        metrics.open_requests.inc()

    def begin_response(self, start: Message) -> None:
        """Take note of the message ``http.response.start``."""
        self.status = int(start["status"])  # an enum, in some of Starlette's own responses
        self._metrics.response_seconds.labels(self._route).observe(self.elapsed_s)
        self._is_stream = any(
            name.lower() == b"content-type" and value.startswith(_STREAM) for name, value in start["headers"]
        )
        if self._is_stream:
            self._metrics.open_streams.inc()

    def end(self) -> None:
        """Count the request."""
        self._metrics.open_requests.dec()
        if self._is_stream:
            self._metrics.open_streams.dec()
        self._metrics.requests.labels(self._route, self._method, str(self.status)).inc()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s

    @property
    def _route(self) -> str:
        """The template of the path, as ``/v1/files/{file_id}``; the router puts it there."""
        path: str = getattr(self._scope.get("route"), "path", _NO_ROUTE)
        return path

    @property
    def _method(self) -> str:
        method: str = self._scope["method"]
        return method if method in _METHODS else _OTHER_METHOD
