"""Runs `loramill` on a home folder with one base model: as a process, or in the test's own, which takes no second."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.cli.main import cli
from tests.app.conftest import BASE


@dataclass(frozen=True)
class Done:
    """What a command that has ended left behind."""

    returncode: int | str | None
    stdout: str
    stderr: str


def loramill(home: Path, *arguments: str | Path, columns: int = 80) -> Done:
    """Run the command line in this process, in the home folder."""
    out, err = io.StringIO(), io.StringIO()
    environment = _environment(home, columns)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["loramill", *map(str, arguments)])
        patch.chdir(home)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli()
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def loramill_process(home: Path, *arguments: str | Path, columns: int = 80) -> Done:
    """Run `python -m app` in the home folder, its outputs pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments)],
        env=_environment(home, columns),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _environment(home: Path, columns: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
    ours = {"LORAMILL_HOME": str(home), "LORAMILL_BASE_MODELS": BASE, "NO_COLOR": "1", "COLUMNS": str(columns)}
    return kept | ours
