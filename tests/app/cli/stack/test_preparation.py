"""What must hold before the embedded stack starts."""

import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from app.cli.stack.preparation import hold_home, refuse_taken_port, run_to_end, runtime_folder
from app.cli.stack.supervisor import Stop
from core.errors import StartRefused
from core.settings import Settings


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_in_use_is_refused_and_a_free_one_is_not(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with listener, pytest.raises(StartRefused, match=rf"port {port}: Address already in use.*LORAMILL_PORT"):
        refuse_taken_port(Settings(port=port))
    refuse_taken_port(Settings(port=port))


def test_a_home_is_held_by_one_stack(tmp_path: Path) -> None:
    second = hold_home(tmp_path / "home")
    with hold_home(tmp_path / "home"), pytest.raises(StartRefused, match="another stack runs on"), second:
        pass
    with hold_home(tmp_path / "home"):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.cli.stack.preparation import hold_home\n"
        "with hold_home(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StartRefused), hold_home(tmp_path):
            pass
        holder.kill()
    with hold_home(tmp_path):
        pass


def test_the_runtime_folder_is_private_and_goes_away() -> None:
    with runtime_folder() as folder:
        (folder / "some.sock").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_folder_too_long_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(StartRefused, match="TMPDIR"), runtime_folder():
        pass
    assert list(deep.iterdir()) == []


def test_a_preparation_ends_when_the_stack_is_to_stop() -> None:
    stop = Stop()
    threading.Timer(0.2, stop.request).start()
    run_to_end((sys.executable, "-c", "import time; time.sleep(600)"), {}, "it did not work", stop)
    assert stop.requested


def test_a_failed_preparation_says_what_failed() -> None:
    run_to_end((sys.executable, "-c", ""), {}, "it did not work")
    with pytest.raises(StartRefused, match="it did not work"):
        run_to_end((sys.executable, "-c", "raise SystemExit(1)"), {}, "it did not work")
