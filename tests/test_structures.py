"""docs/structures.md has a line for every folder of code, and for no folder that is gone."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "structures.md"
WORDS = 2500  # of a page that is read whole
# parts of a folder that has a line
INNER = ("benchmarks/", "examples/", "migrations/", "tests/", "worker/inference/native/")


def folders() -> set[str]:
    """Folders that git keeps modules in."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    names = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return {f"{name.parent}/" for name in names if name.name != "__init__.py" and len(name.parts) > 1}


def test_the_page_names_every_folder_and_no_other() -> None:
    named = set(re.findall(r"^\| `([^`]+/)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    there = {folder for folder in folders() if folder in INNER or not folder.startswith(INNER)} - {"worker/"}
    assert named == there | {"tests/"}


def test_the_page_can_be_read_at_once() -> None:
    assert len(PAGE.read_text(encoding="utf-8").split()) <= WORDS
