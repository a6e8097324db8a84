"""Starts real embedded stacks for tests: `loramill up` in its own home, on a free port, with a tiny base model."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from openai import OpenAI

from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.process.bound import bound
from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_llama

TINY = "tiny"
READY_WITHIN_S = 240.0
STOPPED_WITHIN_S = 60.0
# lost processes are noticed in seconds rather than in the half minute of the defaults
QUICK = {
    "LORAMILL_HEARTBEAT_S": "0.3",
    "LORAMILL_LEASE_TTL_S": "3",
    "LORAMILL_SWEEP_S": "0.5",
    "LORAMILL_POLL_S": "0.5",
}


# the stack's processes, by a piece of their name and command line
VICTIMS = {
    "trainer": ("-m", "worker.training"),
    "worker": ("--app=worker.celery.app",),
    "api": ("-m", "app", "api"),
    "broker": ("valkey-server",),
    "engine": ("-m", "worker.inference"),
}


@dataclass(frozen=True)
class Stack:
    """A running stack, seen from outside."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, api_key: str = "unused") -> OpenAI:
        """Give the official client; the caller closes it."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)

    def get(self, path: str) -> tuple[int, bytes]:
        """Give status and body of a GET; ConnectionError while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Give status and body of a POST of JSON, as curl would send it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def processes(self, *arguments: str) -> list[psutil.Process]:
        """Give the stack's processes whose name and command line have these words in a row."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = [process.name(), *process.cmdline()]
                starts = range(len(line) - len(arguments) + 1)
                if any(tuple(line[i : i + len(arguments)]) == arguments for i in starts):
                    found.append(process)
        return found


def eventually(holds: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
    """Wait for something that must come about."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come about in {within_s:g} s"
        time.sleep(0.25)


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def register_tiny(home: Path) -> None:
    """Put a tiny base model into the home's registry; the stack imports it when it starts."""
    source = write_tiny_llama(home / "tiny-source")
    entry = BaseModelEntry(name=TINY, source=Folder(path=source), learning_rate=1e-2)
    Registry.load(home / "base-models").add(entry)


def command_environ(home: Path, port: int, **environ: str) -> dict[str, str]:
    """Give the environment of a command that works on this home, whatever the tests' own is."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
    own = {"LORAMILL_HOME": str(home), "LORAMILL_PORT": str(port), "LORAMILL_BASE_MODELS": TINY}
    return {**clean, "OMP_NUM_THREADS": "1", **own, **environ}


@contextlib.contextmanager
def running_stack(home: Path, **environ: str) -> Iterator[Stack]:
    """Run a stack around the block; it must then stop with status 0, unless the block ended it itself."""
    if not (home / "base-models" / "base_models.toml").exists():
        register_tiny(home)
    share_kernels(home)
    port, output = free_port(), home / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            bound([sys.executable, "-m", "app", "up"], signal.SIGTERM),
            env=command_environ(home, port, **(QUICK | environ)),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    stack = Stack(home, port, process, output)

    def settled() -> bool:
        assert process.poll() is None, f"the stack ended:\n{tail(output)}"
        return stack.is_ready()

    try:
        try:
            eventually(settled, "readiness", READY_WITHIN_S)
            yield stack
        except BaseException as failure:
            failure.add_note(f"the stack's last lines:\n{tail(output)}")
            raise
        if process.poll() is None:
            process.terminate()
            assert process.wait(STOPPED_WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()


def tail(path: Path, lines: int = 40) -> str:
    """Give the end of a log."""
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])


def upload(client: OpenAI, path: Path) -> str:
    """Upload a file that can be trained on; give its id."""
    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    assert file.status == "processed", file.status_details
    return file.id


def write_examples(path: Path, answers: Sequence[str] = ("ja", "nein", "doch"), count: int = 48) -> Path:
    """Write prompt and completion lines, a few dozen bytes each."""
    lines = [{"prompt": f"Frage {i}: ", "completion": answers[i % len(answers)]} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
