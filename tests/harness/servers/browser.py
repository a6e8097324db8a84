"""A real browser for tests, and sites for it: each serves one page, and takes what its script reports.

Any Chromium will do, as Debian's ``chromium-headless-shell``. A machine without one skips such tests, and says so.
"""

import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_WITHIN_S = 120.0


class Site(http.server.ThreadingHTTPServer):
    """Serves a page with one script on a port of the loopback; what is posted to it is a report."""

    def __init__(self, script: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _SiteHandler)
        self.page = f"<!doctype html><title>a page</title><script>{script}</script>".encode()
        self.reports: queue.Queue[Any] = queue.Queue()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def report(self) -> Any:
        """Wait for the next report."""
        return self.reports.get(timeout=_WITHIN_S)

    def __enter__(self) -> "Site":
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _SiteHandler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self._answer(self.server.page)

    def do_POST(self) -> None:
        self.server.reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def browsing(url: str, profile: Path, *, local_name: str = "localhost") -> Iterator[None]:
    """Have a browser open on a page; as a victim of rebinding it takes ``local_name`` for a name of this machine."""
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser on this machine (one of {', '.join(_NAMES)}): how pages meet the API is not tried")
    command = [
        browser,
        "--headless",
        "--no-sandbox",  # tests may run as root, and the pages are ours
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={profile}",
        f"--host-resolver-rules=MAP {local_name} 127.0.0.1",
        "--remote-debugging-port=0",  # keeps it open until it is ended
        url,
    ]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # Debian's command is a script, which would not pass a signal on
