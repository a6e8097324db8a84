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

from tests.planted_defects.anchor import laid_out, module_path, with_defect
from tests.planted_defects.defect import Defect

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED = 0, 1  # pytest's exit statuses; any other means that the tests did not run


class NotRun(Exception):
    """The tests of a defect could not be run."""


def plant(root: Path, defect: Defect) -> None:
    """Write a module under ``root`` with the defect in it.

    Raises:
        AnchorLost: its place is not there exactly once.
    """
    path = module_path(root, defect)
    path.write_text(with_defect(path.read_text(encoding="utf-8"), defect), encoding="utf-8")


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
    """Run tests under ``root`` and tell whether all pass; slow ones only where a test is named by itself.

    Raises:
        NotRun: pytest found none, or could not even read them.
    """
    single = [name for name in tests if "::" in name]
    whole = [name for name in tests if "::" not in name]
    return all(_pass(root, names, marks) for names, marks in ((single, ""), (whole, "not slow")) if names)


def _pass(root: Path, names: Sequence[str], marks: str) -> bool:
    # no bytecode: a file changed within a second to the same size would be run as it was before
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks, *names]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (PASSED, FAILED):
        raise NotRun(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == PASSED


def run(defects: Sequence[Defect]) -> list[str]:
    """Plant each defect in turn, say whether it is caught, and give the names of those that are not.

    Raises:
        AnchorLost: a defect's place is not there exactly once.
        NotRun: tests fail without any defect, or could not be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        copy_project(root)
        for path in {module_path(root, defect) for defect in defects}:
            # laid out as with a defect, so that nothing but the defect can make a test fail
            path.write_text(laid_out(path.read_text(encoding="utf-8")), encoding="utf-8")
        if not are_green(root, sorted({test for defect in defects for test in defect.tests})):
            raise NotRun("the tests fail without any defect")
        missed = []
        for defect in defects:
            path = module_path(root, defect)
            sound = path.read_text(encoding="utf-8")
            plant(root, defect)
            is_caught = not are_green(root, defect.tests)
            path.write_text(sound, encoding="utf-8")
            print(f"{'caught    ' if is_caught else 'NOT CAUGHT'}  {defect.name}", flush=True)
            if not is_caught:
                missed.append(defect.name)
    return missed
