"""Who counts as frozen: real processes and locks, and a clock that the test moves."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.cli.stack.liveness import LONGEST_GAP_S, LOOK_S, SILENT_S, SILENT_WITH_LOCK_S, FrozenProcess, LivenessWatch
from core.process.signs_of_life import SIGN
from tests.harness.fake_clock import FakeClock
from tests.harness.servers.stack import eventually

PTRACE_SEIZE = 0x4206  # linux/ptrace.h
# shows signs of life, and does what it is told on its input
PROGRAM = """
import os, sqlite3, sys, time
from core.process.signs_of_life import show_signs_of_life
show_signs_of_life(os.environ)
print("there", flush=True)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    connection.execute(line.strip())
    print("done", flush=True)
"""


class WatchedDatabase:
    """A watch, and a database whose users it hears."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.database = folder / "x.db"
        self.address = folder / "watch.sock"
        self.watch = LivenessWatch(self.address, self.database, self.clock)

    @contextlib.contextmanager
    def process(self, *, shows_signs: bool = True) -> Iterator[subprocess.Popen[bytes]]:
        environ = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        if shows_signs:
            environ |= LivenessWatch.environ(self.address) | {"WATCHDOG_USEC": "40000"}
        command = [sys.executable, "-c", PROGRAM, str(self.database)]
        with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            try:
                yield process
            finally:
                process.kill()
                if process.returncode == -signal.SIGSTOP:  # a traced process that stops has ended, as Popen reads it
                    os.kill(process.pid, signal.SIGKILL)
                    os.waitpid(process.pid, 0)

    def pass_s(self, seconds: float) -> list[FrozenProcess]:
        """Let time pass with a look every `LOOK_S`."""
        found = []
        for _ in range(int(seconds / LOOK_S)):
            self.clock.now_s += LOOK_S
            found += self.watch.look()
        return found

    def wait_for_signs(self, process: subprocess.Popen[bytes]) -> None:
        def is_heard() -> bool:
            self.watch.look()
            return process.pid in self.watch._heard

        eventually(is_heard, "a sign of life", 30)


def tell(process: subprocess.Popen[bytes], statement: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(statement.encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"done\n"


def freeze(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


@pytest.fixture
def watched() -> Iterator[WatchedDatabase]:
    # a path of pytest's own can be too long for a socket
    with tempfile.TemporaryDirectory() as folder:
        watched = WatchedDatabase(Path(folder))
        yield watched
        watched.watch.close()


def test_a_stopped_process_with_the_lock_must_end_before_one_without(watched: WatchedDatabase) -> None:
    with watched.process() as holder, watched.process() as other:
        for process in (holder, other):
            watched.wait_for_signs(process)
        tell(holder, "CREATE TABLE t (x)")
        tell(holder, "BEGIN IMMEDIATE")
        freeze(holder)
        freeze(other)
        assert watched.pass_s(SILENT_WITH_LOCK_S - LOOK_S) == []
        [frozen] = watched.pass_s(2 * LOOK_S)
        assert (frozen.pid, frozen.must_end) == (holder.pid, True)
        assert os.getpid() in frozen.lineage
        assert "kept others from writing the database for 10 s" in frozen.sentence
        holder.kill()
        holder.wait()
        later = watched.pass_s(SILENT_S)
        assert {(frozen.pid, frozen.must_end) for frozen in later} == {(other.pid, True)}
        assert "no sign of life for 60 s" in later[0].sentence


def test_a_process_that_lives_may_hold_the_lock(watched: WatchedDatabase) -> None:
    with watched.process() as holder:
        tell(holder, "CREATE TABLE t (x)")
        tell(holder, "BEGIN IMMEDIATE")
        for _ in range(3):
            watched.wait_for_signs(holder)
            watched.watch._heard.clear()  # so that each wait is for a new sign
            watched.wait_for_signs(holder)
            assert watched.pass_s(SILENT_WITH_LOCK_S - 2 * LOOK_S) == []


def test_a_process_that_never_showed_a_sign_is_named_once_for_its_lock_only(watched: WatchedDatabase) -> None:
    with watched.process(shows_signs=False) as holder:
        tell(holder, "CREATE TABLE t (x)")
        assert watched.pass_s(2 * SILENT_S) == []
        tell(holder, "BEGIN IMMEDIATE")
        assert [frozen.pid for frozen in watched.pass_s(2 * SILENT_S)] == [holder.pid]


def test_each_holder_of_the_lock_has_its_own_time(watched: WatchedDatabase) -> None:
    with watched.process(shows_signs=False) as one, watched.process(shows_signs=False) as other:
        tell(one, "CREATE TABLE t (x)")
        for holder in (one, other, one, other):
            tell(holder, "BEGIN IMMEDIATE")
            assert watched.pass_s(SILENT_WITH_LOCK_S - 2 * LOOK_S) == []
            tell(holder, "COMMIT")


def test_only_a_sign_of_life_is_one(watched: WatchedDatabase) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as process:
        for said, is_heard in ((b"READY=1", False), (SIGN, True)):
            process.sendto(said, str(watched.address))
            watched.watch.look()
            assert (os.getpid() in watched.watch._heard) is is_heard


def test_what_was_not_heard_while_the_supervisor_was_stopped_proves_nothing(watched: WatchedDatabase) -> None:
    with watched.process() as process:
        watched.wait_for_signs(process)
        freeze(process)
        watched.clock.now_s += 10 * SILENT_S
        assert 10 * SILENT_S > LONGEST_GAP_S
        assert watched.watch.look() == []
        assert watched.pass_s(SILENT_S - LOOK_S) == []
        assert len(watched.pass_s(2 * LOOK_S)) > 0


def test_a_process_that_ended_is_forgotten(watched: WatchedDatabase) -> None:
    with watched.process() as process:
        watched.wait_for_signs(process)
        process.kill()
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "its end", 30)
        assert watched.pass_s(2 * SILENT_S) == []  # while nobody has waited for it
    assert watched.watch._heard == {}


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN IMMEDIATE"])
def test_one_that_is_traced_is_left_alone_unless_it_holds_the_lock(watched: WatchedDatabase, statement: str) -> None:
    with watched.process() as process:
        watched.wait_for_signs(process)
        tell(process, "CREATE TABLE t (x)")
        tell(process, statement)
        freeze(process)
        if ctypes.CDLL(None).ptrace(PTRACE_SEIZE, process.pid, None, None) != 0:
            pytest.skip("processes may not trace each other here")
        holds_lock = statement == "BEGIN IMMEDIATE"
        [frozen, *_] = watched.pass_s(SILENT_S + LOOK_S)
        assert (frozen.pid, frozen.must_end) == (process.pid, holds_lock)
        assert holds_lock or f"process {os.getpid()} traces it" in frozen.sentence
        assert watched.pass_s(2 * SILENT_S) == []  # told once
