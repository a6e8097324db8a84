"""The list of planted defects fits the present sources; ``make defects`` plants them, which takes minutes."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.golden_files import golden_names
from tests.planted_defects import (
    in_hyperparameters,
    in_optimization,
    in_packing,
    in_ranks,
    in_resuming,
    in_serving,
    in_text,
    in_training,
)
from tests.planted_defects.defect import Defect
from tests.planted_defects.planting import ROOT, NotRun, plant

DEFECTS = (
    *in_hyperparameters.DEFECTS,
    *in_optimization.DEFECTS,
    *in_packing.DEFECTS,
    *in_ranks.DEFECTS,
    *in_resuming.DEFECTS,
    *in_serving.DEFECTS,
    *in_text.DEFECTS,
    *in_training.DEFECTS,
)


@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])
def test_its_text_stands_once_and_would_change_the_program(defect: Defect) -> None:
    source = (ROOT / defect.file).read_text(encoding="utf-8")
    assert source.count(defect.old) == 1
    assert ast.dump(ast.parse(source.replace(defect.old, defect.new))) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])
def test_it_uses_only_names_that_its_file_has(defect: Defect) -> None:
    """A name that is not there would fail any test, which would then be said to catch the defect."""
    source = (ROOT / defect.file).read_text(encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    planted = source.replace(defect.old, defect.new)
    done = subprocess.run(command, input=planted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("test", sorted({test for defect in DEFECTS for test in defect.tests}))
def test_the_tests_that_must_catch_it_are_there(test: str) -> None:
    file, *names = test.split("::")
    scope: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for name in names:
        found = [
            node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        ]
        assert len(found) == 1, f"{name} is not in {file}"
        [scope] = found


def test_every_known_trap_has_a_defect() -> None:
    """A trap is known by its golden file, or by the name of a test."""
    numbers = {name.split("-")[0] for name in golden_names()}
    for path in (ROOT / "tests").rglob("test_*.py"):
        numbers.update(re.findall(r"def test_trap_(\d\d)_", path.read_text(encoding="utf-8")))
    assert numbers == {defect.name.split()[0] for defect in DEFECTS if defect.name[:2].isdigit()}


def test_names_are_unique() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)


def test_a_defect_whose_text_is_gone_or_doubled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\none = 1\n")
    for old in ("one", "two"):
        with pytest.raises(NotRun, match="not once"):
            plant(tmp_path, Defect("x", "a.py", old, "three", ()))
