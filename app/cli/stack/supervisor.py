"""Keeps a group of processes running: starts, restarts with growing delay, ends frozen ones, stops all in order.

Knows nothing of what the processes do; ``app.cli.stack.stack`` says which there are.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.cli.stack.liveness import FrozenProcess
from app.cli.stack.process_log import ProcessLog
from core.process.bound import bound

TICK_S = 0.1
DRAIN_S = 2.0  # how long a dead process's last lines are waited for


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep running. ``command[0]`` is an absolute path."""

    name: str
    command: tuple[str, ...]
    stop_s: float  # seconds from SIGTERM to SIGKILL
    is_early: bool = False  # it needs nothing of what is prepared


class Watch(Protocol):
    """Tells which processes are frozen, as ``app.cli.stack.liveness`` does."""

    def look(self) -> Sequence[FrozenProcess]: ...


class Stop:
    """The wish that the supervisor ends: plain flags, because signal handlers set them.

    A handler that sets a `threading.Event` hangs when its thread is just inside `wait`.
    """

    def __init__(self) -> None:
        self.requested = False
        self.hurried = False  # do not wait for an orderly end either

    def request(self, *_: object) -> None:
        """Ask to stop; asking again asks to hurry. Takes a signal handler's arguments."""
        self.hurried = self.requested
        self.requested = True


@dataclass(frozen=True)
class Backoff:
    """How long a process that ended waits for its restart: doubling, forgotten after a healthy while."""

    first_s: float = 0.5
    longest_s: float = 30.0
    healthy_after_s: float = 60.0

    def delay_s(self, failures: int) -> float:
        """Give the wait after this many failures in a row, at least one."""
        return float(min(self.longest_s, self.first_s * 2 ** min(failures - 1, 32)))


def start_bound(
    command: Sequence[str], *, death_signal: signal.Signals, environ: Mapping[str, str], output: int | None
) -> subprocess.Popen[bytes]:
    """Start a command that is signalled when this process dies. Call it from the main thread only.

    The command gets a session of its own, so a Ctrl-C at the terminal reaches only us. ``output``
    takes stdout and stderr: a descriptor, PIPE, or None for our own.
    """
    assert threading.current_thread() is threading.main_thread()
    return subprocess.Popen(
        bound(command, death_signal),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


class Child:
    """One process over all its restarts."""

    def __init__(self, spec: ChildSpec, environ: Mapping[str, str], log: ProcessLog, backoff: Backoff) -> None:
        self.spec = spec
        self._environ = environ
        self._log = log
        self._backoff = backoff
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._failures = 0
        self._started_at = 0.0
        self._start_at = 0.0  # when the next start is due, while there is no process

    @property
    def pid(self) -> int | None:
        """Process id, None while it waits for its restart."""
        return self._process.pid if self._process else None

    def note(self, line: str) -> None:
        """Write a line of ours among the process's own."""
        self._log.write(line)

    def start(self) -> None:
        """Start the process and follow its output."""
        self._process = start_bound(
            self.spec.command,
            # SIGKILL: a broker that died with us can keep a process from ending in order
            death_signal=signal.SIGKILL,
            environ=self._environ,
            output=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._reader = self._log.follow(self._process.stdout)
        self._started_at = time.monotonic()

    def look(self) -> None:
        """Notice that the process has ended, and start it again when that is due."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        healthy = now - self._started_at >= self._backoff.healthy_after_s
        self._failures = 1 if healthy else self._failures + 1
        delay_s = self._backoff.delay_s(self._failures)
        self._start_at = now + delay_s
        self._forget_process()
        self._log.write(f"ended ({describe_exit(code)}); starts again in {delay_s:g} s")

    def stop(self, stop: Stop) -> None:
        """End the process: SIGTERM, then SIGKILL to its whole group after the deadline or in a hurry."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            self._wait(stop)
        if self._process.poll() is None:
            self._log.write("did not stop in time; killed")
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._forget_process()

    def _wait(self, stop: Stop) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.spec.stop_s
        while self._process.poll() is None and time.monotonic() < deadline and not stop.hurried:
            time.sleep(TICK_S / 2)

    def _forget_process(self) -> None:
        assert self._reader is not None
        self._reader.join(DRAIN_S)  # a grandchild can hold the pipe open; its lines then come later
        self._process = self._reader = None


class Supervisor:
    """Runs children from start to stop. Lives in the main thread.

    Args:
        watch: tells which of their processes are frozen; None: nobody watches.
    """

    def __init__(self, children: Sequence[Child], watch: Watch | None = None) -> None:
        self.children = tuple(children)
        self._watch = watch

    def run(self, stop: Stop, prepare: Callable[[], None] = lambda: None) -> None:
        """Start all, keep them running until a stop is requested, then stop them in reverse order.

        What ``prepare`` does is done beside those that are early, and before the others start.
        """
        try:
            self._start(is_early=True)
            prepare()
            if not stop.requested:
                self._start(is_early=False)
            while not stop.requested:
                for child in self.children:
                    child.look()
                for frozen in () if self._watch is None else self._watch.look():
                    self._end(frozen)
                time.sleep(TICK_S)
        finally:
            for child in reversed(self.children):
                child.stop(stop)

    def _start(self, *, is_early: bool) -> None:
        for child in self.children:
            if child.spec.is_early == is_early:
                child.start()

    def _end(self, frozen: FrozenProcess) -> None:
        """Kill a process of a child, or the child itself, whose end is then noticed as any other."""
        child = next((child for child in self.children if child.pid in frozen.lineage), None)
        if child is None:
            # every process's log is as good as another; the last one's is the API's, which is asked about it
            self.children[-1].note(f"{frozen.sentence}; it is not of this stack, so it is left alone")
        elif frozen.must_end:
            child.note(f"{frozen.sentence}; killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(frozen.pid, signal.SIGKILL)
        else:
            child.note(frozen.sentence)


def describe_exit(code: int) -> str:
    """Say how a process ended, from its `Popen.returncode`."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
