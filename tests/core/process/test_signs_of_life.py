"""What a supervisor hears of a process, by systemd's protocol on a real socket."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.process.signs_of_life import SIGN, show_signs_of_life

PROGRAM = """
import os, time
from core.process.signs_of_life import show_signs_of_life
show_signs_of_life(os.environ)
time.sleep(600)
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify.sock"))
        supervisor.settimeout(30)
        yield supervisor


def heard_in_silence(supervisor: socket.socket) -> int:
    heard = 0
    with contextlib.suppress(TimeoutError):
        while supervisor.recv(64) and heard < 100:
            heard += 1
    return heard


def test_a_process_shows_signs_until_it_is_stopped(supervisor: socket.socket) -> None:
    environ = os.environ | {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "40000"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environ) as process:
        try:
            assert [supervisor.recv(64) for _ in range(3)] == [SIGN] * 3
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            supervisor.settimeout(0.5)  # a dozen signs long
            assert heard_in_silence(supervisor) < 100  # those sent before
        finally:
            process.kill()


def test_a_process_outlives_its_supervisors_socket(supervisor: socket.socket, tmp_path: Path) -> None:
    environ = os.environ | {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "40000"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environ, stderr=subprocess.PIPE) as process:
        try:
            assert supervisor.recv(64) == SIGN
            supervisor.close()
            (tmp_path / "notify.sock").unlink()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
                successor.bind(str(tmp_path / "notify.sock"))
                successor.settimeout(30)
                assert successor.recv(64) == SIGN
        finally:
            process.kill()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"WATCHDOG_USEC": "40000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"},
    ],
)
def test_nothing_is_sent_where_nobody_asks_this_process(environ: dict[str, str]) -> None:
    assert show_signs_of_life(environ) is None
