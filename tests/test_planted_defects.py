"""The list of planted defects fits the present sources; ``make defects`` plants them, which takes minutes."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.golden_files import golden_names
from tests.planted_defects.anchor import laid_out, module_path, with_defect
from tests.planted_defects.defect import Defect
from tests.planted_defects.known import DEFECTS
from tests.planted_defects.planting import ROOT


@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])
def test_its_place_is_there_once_and_with_it_the_program_is_another(defect: Defect) -> None:
    source = module_path(ROOT, defect).read_text(encoding="utf-8")
    assert with_defect(source, defect) != laid_out(source)


def test_defects_use_only_names_that_their_modules_have(tmp_path: Path) -> None:
    """A name that is not there would fail any test, which would then be said to catch the defect."""
    for defect in DEFECTS:
        planted = with_defect(module_path(ROOT, defect).read_text(encoding="utf-8"), defect)
        (tmp_path / f"{defect.name.replace('/', ' ')}.py").write_text(planted, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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
