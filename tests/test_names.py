"""One word, one meaning: whoever searches for a class finds one."""

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_no_class_name_has_two_meanings() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the project is not known")
    where = defaultdict(list)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
                # a class that groups tests is named for what they claim, and found by its file
                if isinstance(node, ast.ClassDef) and not node.name.startswith(("_", "Test")):
                    where[node.name].append(name)
    assert "SchedulerLoop" in where
    assert {name: files for name, files in where.items() if len(files) > 1} == {}
