"""A home folder that cannot be written: each command says so in one sentence, and none ends in a traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import StartRefused
from core.process.writable import require_writable
from tests.harness.migrated import write_migrated
from tests.harness.servers.stack import command_environ, free_port

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {
    "up": ("up",),
    "worker": ("worker",),
    "api": ("api",),
    "migrate": ("migrate",),
    "base-models-add": ("base-models", "add", "mine", "--folder", "/nowhere"),
    "base-models-import": ("base-models", "import", "smollm2-135m-instruct"),
}


@pytest.fixture(params=["mount", "file"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A home on a read-only file system, which stops root too; or one in whose place a file lies."""
    home = tmp_path / "home"
    if request.param == "file":
        home.touch()
        yield home
        return
    if os.geteuid() != 0:
        pytest.skip("only root can mount a read-only file system")
    home.mkdir()
    write_migrated(home / "loramill.db")
    mounts = (["mount", "--bind", str(home), str(home)], ["mount", "-o", "remount,ro,bind", str(home)])
    for command in mounts:
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("nothing can be mounted here")
    yield home
    subprocess.run(["umount", str(home)], check=True)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=command_environ(home, free_port()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_would_write_refuses_in_one_sentence(unwritable: Path, command: str) -> None:
    done = run(unwritable, *COMMANDS[command])
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert str(unwritable) in lines[0]
    assert "cannot be written" in lines[0]
    assert "LORAMILL_HOME" in lines[0]


@pytest.mark.slow
def test_the_doctor_names_the_home(unwritable: Path) -> None:
    done = run(unwritable, "doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stdout.splitlines() if " home " in line]
    assert line.startswith("fail")
    assert str(unwritable) in line


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_folders_place_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(StartRefused, match=r"home/runs cannot be written: Not a directory; let user \d+ write there"):
        require_writable(tmp_path / "home" / "runs")
