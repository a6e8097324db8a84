"""A real API process with few descriptors, against clients that say nothing or break off."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from core.process.bound import bound
from tests.app.conftest import ApiHarness, serving
from tests.harness.migrated import write_migrated
from tests.harness.servers.stack import command_environ, eventually, free_port

DESCRIPTORS = 256
SILENT = 300
BROKEN_UPLOADS = 120
UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b'Content-Length: 60000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
)


def connected(port: int) -> socket.socket:
    """Connect at a pace at which the few that may wait are accepted; whom the kernel drops tries again in seconds."""
    time.sleep(0.003)
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def is_alive(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def api_process(home: Path, log: Path) -> Iterator[int]:
    """Run `loramill api` with few descriptors, and give its port."""
    port = free_port()
    limited = f'ulimit -n {DESCRIPTORS} && exec "$@"'
    command = ["/bin/sh", "-c", limited, "sh", sys.executable, "-m", "app", "api"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound(command, signal.SIGTERM), env=command_environ(home, port), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: is_alive(port), "an answer")
        yield port
    finally:
        process.terminate()
        process.wait()


def test_silent_connections_lock_nobody_out_and_fill_no_log(tmp_path: Path) -> None:
    write_migrated(tmp_path / "loramill.db")
    log = tmp_path / "api.log"
    with api_process(tmp_path, log) as port, contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(connected(port))
        assert [is_alive(port) for _ in range(5)] == [True] * 5
        for _ in range(SILENT):
            with connected(port) as nonsense:
                nonsense.sendall(b"nonsense\r\n\r\n")
        assert is_alive(port)
    lines = log.read_text("utf-8", "replace").splitlines()
    assert len(lines) < 40, lines[:60]
    assert any("closed while silent, to make room" in line for line in lines)


def test_uploads_that_break_off_leave_no_threads(harness: ApiHarness) -> None:
    with serving(harness.app()) as url:
        parts = urlsplit(url)
        before = threading.active_count()
        with contextlib.ExitStack() as stack:
            for _ in range(BROKEN_UPLOADS):
                client = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
                stack.enter_context(client).sendall(UPLOAD + b"x" * 1000)
            eventually(lambda: len(harness.stored_bytes()) == BROKEN_UPLOADS, "all uploads under way")
        eventually(lambda: harness.stored_bytes() == [], "the end of all uploads")
        # anyio's worker threads are 40 at most
        assert threading.active_count() - before <= 42
