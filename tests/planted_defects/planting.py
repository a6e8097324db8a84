"""Puts defects into a copy of the project, one at a time, and runs the tests that must catch each.

A test that passes says little until it has failed once; here each of them does.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.planted_defects.defect import Defect

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED = 0, 1  # pytest's exit statuses; any other means that the tests did not run


class NotRun(Exception):
    """A defect could not be planted, or its tests could not be run."""


def plant(root: Path, defect: Defect) -> None:
    """Write the defect into its file under ``root``.

    Raises:
        NotRun: its text does not stand there exactly once.
    """
    path = root / defect.file
    source = path.read_text(encoding="utf-8")
    if source.count(defect.old) != 1:
        raise NotRun(f"{defect.name}: its text stands {source.count(defect.old)} times in {defect.file}, not once")
    path.write_text(source.replace(defect.old, defect.new), encoding="utf-8")


def copy_project(to: Path) -> None:
    """Copy what git would keep, and link what tests look for beside it: base models and the shared folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    for source, link in (
        (ROOT / "var" / "base-models", to / "var" / "base-models"),
        (ROOT.parent / "shared", to.parent / "shared"),
    ):
        if source.is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)


def are_green(root: Path, tests: Sequence[str]) -> bool:
    """Run tests under ``root`` and tell whether all pass.

    Raises:
        NotRun: pytest found none, or could not even read them.
    """
    # no bytecode: a file changed within a second to the same size would be run as it was before
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (PASSED, FAILED):
        raise NotRun(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == PASSED


def run(defects: Sequence[Defect]) -> list[str]:
    """Plant each defect in turn, say whether it is caught, and give the names of those that are not."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        copy_project(root)
        if not are_green(root, sorted({test for defect in defects for test in defect.tests})):
            raise NotRun("the tests fail without any defect")
        missed = []
        for defect in defects:
            original = (root / defect.file).read_text(encoding="utf-8")
            plant(root, defect)
            is_caught = not are_green(root, defect.tests)
            (root / defect.file).write_text(original, encoding="utf-8")
            print(f"{'caught    ' if is_caught else 'NOT CAUGHT'}  {defect.name}", flush=True)
            if not is_caught:
                missed.append(defect.name)
    return missed
