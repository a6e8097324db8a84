"""Our packages are found by name whatever else is importable, and never mixed with another's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loramill._packages import FOLDER, environment_of_children

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a script in a folder, whose modules it then finds first."""
    script = where / "script.py"
    script.write_text(code)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder whose core and app are somebody else's."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("")
    (tmp_path / "app.py").write_text("NAME = 'theirs'")
    return tmp_path


def test_in_a_checkout_they_lie_beside_the_package() -> None:
    assert FOLDER == ROOT


def test_ours_are_found_before_those_of_the_script(elsewhere: Path) -> None:
    done = run("import loramill, core.errors; print(core.__file__)", elsewhere)
    assert done.stdout == f"{ROOT / 'core' / '__init__.py'}\n", done.stderr


def test_a_name_that_the_door_does_not_need_stays_theirs(elsewhere: Path) -> None:
    done = run("import loramill, app; print(app.NAME)", elsewhere)
    assert done.stdout == "theirs\n", done.stderr


def test_another_package_that_is_loaded_already_is_named(elsewhere: Path) -> None:
    done = run("import core, loramill", elsewhere)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ImportError: loramill has a package named 'core', but this process has imported another one"
    )
    assert str(elsewhere / "core" / "__init__.py") in last


def test_children_find_ours_first_and_nothing_where_they_are_started() -> None:
    environ = environment_of_children({"PYTHONPATH": "/theirs", "HOME": "/home"})
    path = os.pathsep.join([str(FOLDER), "/theirs"])
    assert environ == {"HOME": "/home", "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    assert environment_of_children({})["PYTHONPATH"] == str(FOLDER)
