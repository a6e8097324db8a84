"""The start section: from an engine's process to its being ready, the first time in a home folder and the second.

The first compiles the kernels, the second finds them. Alone, beside processes that do nothing but keep a core busy, and
as a part of the whole product, whose other processes start with it.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

from benchmarks.serving.home import ServedHome, build_home
from benchmarks.serving.over_http.servers import Server, free_port, running
from core.process.bound import bound
from worker.models.reference import BESIDE_MODEL

BUSY: Final = (0, 20)  # processes beside it
STARTS: Final = ("first", "second")
SPIN: Final = (sys.executable, "-c", "while True: pass")


def run(console: Console, base: Path, folder: Path, *, busy: tuple[int, ...] = BUSY) -> dict[str, Any]:
    """Measure it with each number of busy processes and in the product, every time in a home folder of its own."""
    figures: dict[str, Any] = {
        # else the first engine of a home asks transformers, which takes seconds
        "transformers_was_asked_at_the_import": (base / BESIDE_MODEL).exists(),
    }
    for count in busy:
        home = build_home(folder / f"home-{count}", base)
        with busy_processes(count):
            beside = {name: start(home, folder) for name in STARTS}
        figures[f"beside_{count}"] = beside
        console.print(f"beside {count} busy processes", beside)
    home = build_home(folder / "home-stack", base)
    figures["stack"] = {name: start_stack(home, folder) for name in STARTS}
    console.print("in the whole product", figures["stack"])
    return figures


def start(home: ServedHome, logs: Path) -> dict[str, float]:
    """Start an engine once; give seconds until it is ready, to a quarter, and what it and its compiler computed."""
    port = free_port()
    command = (sys.executable, "-m", "worker.inference", "--base-model", home.base_model, "--port", str(port))
    server = Server("engine", command, port, "/readyz", {"LORAMILL_HOME": str(home.folder)}, ready_within_s=900.0)
    began_s = time.monotonic()
    with running(server, logs) as process:
        ready_s = time.monotonic() - began_s
        used = psutil.Process(process.pid).cpu_times()
    return {
        "ready_s": ready_s,
        "cpu_s": used.user + used.system,
        "compiler_cpu_s": used.children_user + used.children_system,
    }


def start_stack(home: ServedHome, logs: Path) -> dict[str, Any]:
    """Start the whole product once; give seconds until all of it is ready, and what each process, and those that it
    waited for, computed by then."""
    began_s = time.monotonic()
    with running(home.server("stack"), logs) as process:
        ready_s = time.monotonic() - began_s
        stack = psutil.Process(process.pid)
        cpu_s = {_part_of(one): sum(one.cpu_times()) for one in (stack, *stack.children(recursive=True))}
    return {"ready_s": ready_s, "cpu_s": cpu_s}


def _part_of(process: psutil.Process) -> str:
    """Name a process by its command, which for ours says what it is."""
    words = [word for word in process.cmdline()[1:] if word.strip() and word != "-m"]
    return f"{' '.join(words[:2]) or process.name()} ({process.pid})"


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy around the block. Call it from the main thread: they end with the thread."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(bound(SPIN, signal.SIGKILL), stdin=subprocess.DEVNULL))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
