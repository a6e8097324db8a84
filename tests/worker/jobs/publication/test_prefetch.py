"""The call that prefetches an adapter, against small servers of its own, reachable and not, quick and slow."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from core.jobs.status import JobStatus
from tests.worker.conftest import BASE_MODEL, Home
from tests.worker.jobs import running
from worker.jobs import runner
from worker.jobs.publication.prefetch import prefetch_in_background

DIGEST = "d" * 64


class FakeEngine:
    """Answers requests on TCP or on a unix socket, once it may; remembers what it was asked."""

    def __init__(self, path: Path | None = None) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                engine.asked.append((self.path, json.loads(body)))
                engine.go.wait(timeout=30)
                content = b'{"code":"adapter_invalid","message":"it is refused"}'
                self.send_response(engine.status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def address_string(self) -> str:
                return "client"  # a unix socket's has none

            def log_message(self, *_arguments: object) -> None:
                pass

        class TcpServer(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: object) -> None:
                pass  # its client has left

        class UnixServer(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self._server: socketserver.BaseServer
        if path is None:
            tcp = TcpServer(("127.0.0.1", 0), Handler)
            self._server, self.url = tcp, f"http://127.0.0.1:{tcp.server_address[1]}"
        else:
            self._server, self.url = UnixServer(str(path), Handler), f"unix://{path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def start() -> Iterator[Callable[..., FakeEngine]]:
    engines: list[FakeEngine] = []

    def start(path: Path | None = None) -> FakeEngine:
        engines.append(FakeEngine(path))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def prefetch(url: str, *, timeout_s: float = 30) -> list[Any]:
    """Ask an engine to its end; give the lines that were logged."""
    with capture_logs() as lines:
        thread = prefetch_in_background({BASE_MODEL: url}, BASE_MODEL, DIGEST, timeout_s=timeout_s)
        assert thread is not None
        thread.join(timeout=60)
        assert not thread.is_alive()
    return list(lines)


def unused_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("over_socket", [False, True])
def test_the_engine_is_asked_for_the_digest(
    start: Callable[..., FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_socket: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    engine = start(tmp_path / "engine.sock" if over_socket else None)
    [line] = prefetch(engine.url)
    assert engine.asked == [("/warm", {"adapter": DIGEST})]
    assert (line["event"], line["log_level"]) == ("adapter prefetched", "info")


# httpcore forgets to close a unix socket that it could not connect
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "url", [pytest.param(unused_url(), id="a free port"), "unix:///nowhere/engine.sock", "http://[", "nonsense"]
)
def test_an_engine_that_cannot_be_reached_is_one_line_in_the_log(url: str) -> None:
    [line] = prefetch(url)
    assert (line["event"], line["log_level"]) == ("adapter not prefetched; its first request will load it", "warning")
    assert line["reason"]


def test_an_engine_that_is_slow_is_not_waited_for_long(start: Callable[..., FakeEngine]) -> None:
    engine = start()
    engine.go.clear()
    [line] = prefetch(engine.url, timeout_s=0.05)
    assert line["log_level"] == "warning"


def test_a_refusal_is_logged_with_its_reason(start: Callable[..., FakeEngine]) -> None:
    engine = start()
    engine.status = 503
    [line] = prefetch(engine.url)
    assert line["status"] == 503
    assert "it is refused" in line["reason"]


def test_no_engine_is_no_call() -> None:
    assert prefetch_in_background({"another": "http://127.0.0.1:1"}, BASE_MODEL, DIGEST) is None


class TestJob:
    def run(self, home: Home, url: str, **behaviour: Any) -> str:
        settings = home.settings.model_copy(update={"engine_urls": {BASE_MODEL: url}})
        job_id = home.queue(steps=2, **behaviour)
        assert running.run(home, settings)
        return job_id

    def test_that_succeeded_warms_its_adapter_once_it_is_published_and_no_checkpoint(
        self, home: Home, start: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = start()
        threads: list[threading.Thread | None] = []
        statuses: list[JobStatus] = []

        def watched(*arguments: Any) -> None:
            statuses.append(home.job(job_id_of()).status)
            threads.append(prefetch_in_background(*arguments))

        def job_id_of() -> str:
            return next(path.name for path in home.settings.runs_folder.iterdir())

        monkeypatch.setattr(runner, "prefetch_in_background", watched)
        job_id = self.run(home, engine.url, checkpoint_every=1)
        [thread] = threads
        assert thread is not None
        thread.join(timeout=30)
        [adapter] = home.adapters(job_id)
        assert statuses == [JobStatus.SUCCEEDED]
        assert engine.asked == [("/warm", {"adapter": adapter.adapter_sha256})]

    def test_ends_whether_or_not_its_engine_answers(self, home: Home, start: Callable[..., FakeEngine]) -> None:
        engine = start()
        engine.go.clear()
        # returns while the engine still holds its answer back
        job_id = self.run(home, engine.url)
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert not engine.go.is_set()

    def test_succeeds_without_an_engine(self, home: Home) -> None:
        assert home.job(self.run(home, unused_url())).status is JobStatus.SUCCEEDED

    def test_that_failed_warms_nothing(self, home: Home, start: Callable[..., FakeEngine]) -> None:
        engine = start()
        self.run(home, engine.url, damages_adapter=True)
        assert engine.asked == []
