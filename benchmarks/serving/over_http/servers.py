"""Processes that serve while something is measured: started, waited for, and always ended. Loopback only.

A server that ends early or does not become ready is shown with the end of its log.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from benchmarks.host.processes import ROOT
from core.process.bound import bound

HOST: Final = "127.0.0.1"
STOPPED_WITHIN_S: Final = 40.0
POLL_S: Final = 0.25
LOG_SHOWN: Final = 4000  # characters of a failed server's log


@dataclass(frozen=True)
class Server:
    """How a server is started. ``health`` is the path that answers 200 once it can be asked."""

    name: str
    command: tuple[str, ...]
    port: int
    health: str
    environ: Mapping[str, str] = field(default_factory=dict)
    ready_within_s: float = 300.0
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class ServerFailed(RuntimeError):
    """A server ended or did not become ready; the message holds the end of its log."""


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(server: Server, logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server around the block. Call it from the main thread: the server ends with the thread.

    Raises:
        ServerFailed: it does not become ready, or has ended when the block fails.
    """
    log = logs / f"{server.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            bound(server.command, signal.SIGTERM),
            cwd=ROOT,
            env=clean_environ() | dict(server.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_ready(server, process, log)
        try:
            yield process
        except Exception as failure:
            failure.add_note(f"{server.name}'s last lines:\n{tail(log)}")
            raise
    finally:
        stop(process, server.stop_signal)


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End a server in order, or at once where it does not end; what it started is in its group and ends with it."""
    if process.poll() is None:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def clean_environ() -> dict[str, str]:
    """Give our environment without our settings, with as many threads as cores and no way to a hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
    cores = str(len(os.sched_getaffinity(0)))
    return kept | {"OMP_NUM_THREADS": cores, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def tail(log: Path) -> str:
    """Give the end of a log."""
    return log.read_text("utf-8", "replace")[-LOG_SHOWN:]


def _await_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + server.ready_within_s
    with httpx2.Client(trust_env=False, timeout=10) as client:
        while True:
            if process.poll() is not None:
                raise ServerFailed(f"{server.name} ended with {process.returncode}:\n{tail(log)}")
            with contextlib.suppress(httpx2.TransportError):
                if client.get(server.url + server.health).status_code == 200:
                    return
            if time.monotonic() > deadline:
                raise ServerFailed(f"{server.name} is not ready after {server.ready_within_s:g} s:\n{tail(log)}")
            time.sleep(POLL_S)


def command_of(*parts: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Put a command line together."""
    flat: list[str] = []
    for part in parts:
        flat += [str(part)] if isinstance(part, str | Path) else list(part)
    return tuple(flat)
