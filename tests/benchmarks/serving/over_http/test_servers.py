import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.serving.over_http.client import Ask, Plan, ask, carry_out
from benchmarks.serving.over_http.servers import Server, ServerFailed, free_port, running

# Answers /health, streams two pieces to a prompt, and refuses the prompt "no".
SCRIPT = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["prompt"] == "no":
            self.send_response(429); self.send_header("Retry-After", "7"); self.end_headers()
            return
        self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
        for text in ("a", "", "b"):
            self.wfile.write(f"data: {json.dumps({'choices': [{'text': text}]})}\\n\\n".encode())
        self.wfile.write(b'data: {"choices": [], "usage": {"completion_tokens": 3}}\\n\\ndata: [DONE]\\n\\n')
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def script(name: str, code: str, **more: float) -> Server:
    port = free_port()
    return Server(name, (sys.executable, "-c", code, str(port)), port, "/health", **more)  # type: ignore[arg-type]


def test_clients_time_each_piece_and_note_refusals(tmp_path: Path) -> None:
    server = script("small", SCRIPT)
    with running(server, tmp_path) as process:
        plan = Plan(server.url, [[Ask({"prompt": "x"}), Ask({"prompt": "no"})], [Ask({"prompt": "y"}, at_s=0.05)]])
        found = sorted(asyncio.run(carry_out(plan)), key=lambda one: (one.client, one.began_s))
    assert not psutil.pid_exists(process.pid) or process.poll() is not None
    assert [one.status for one in found] == [200, 429, 200]
    assert [(len(one.pieces_s), one.tokens, one.text) for one in found[::2]] == [(2, 3, "ab")] * 2
    assert found[1].retry_after == "7"
    assert found[2].began_s >= 0.05
    assert found[0].first_s <= found[0].seconds


def test_clients_run_in_a_process_of_their_own(tmp_path: Path) -> None:
    server = script("small", SCRIPT)
    with running(server, tmp_path):
        [found] = ask(Plan(server.url, [[Ask({"prompt": "x"})]]))
    assert (found.status, found.text) == (200, "ab")


def test_a_server_that_ends_is_shown_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="small ended with 3:\nno such model"),
        running(script("small", "print('no such model'); raise SystemExit(3)"), tmp_path),
    ):
        pass


def test_a_server_that_does_not_become_ready_is_ended(tmp_path: Path) -> None:
    code = f"import os, time; open({json.dumps(str(tmp_path / 'pid'))}, 'w').write(str(os.getpid())); time.sleep(600)"
    with (
        pytest.raises(ServerFailed, match="is not ready after 1 s"),
        running(script("slow", code, ready_within_s=1.0), tmp_path),
    ):
        pass
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
