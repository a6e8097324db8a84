"""The wheel takes one name in site-packages, and what is installed from it works beside packages named as ours."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSIDE = ("app", "core", "migrations", "worker")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is not installed"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of a virtual environment that has the wheel, and its dependencies from ours."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    # a .pth file in a folder that another one names is not read, so the checkout is out of sight
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = Path(sysconfig.get_path("scripts", "venv", scheme)) / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python.parent


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder whose app and worker are somebody else's, and end the process that imports them."""
    for name in ("app", "worker"):
        (tmp_path / f"{name}.py").write_text(f'raise SystemExit("the other {name}")')
    return tmp_path


def run(command: list[str | Path], where: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LORAMILL_", "PYTHON"))}
    environ |= {"LORAMILL_HOME": str(where / "home"), "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(list(map(str, command)), cwd=where, env=environ, capture_output=True, text=True)


def test_it_takes_one_name(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"loramill"}


def test_it_carries_all_of_the_service(wheel: Path) -> None:
    carried = {name.removeprefix("loramill/_service/") for name in zipfile.ZipFile(wheel).namelist()}
    files = (path for name in INSIDE for path in (ROOT / name).rglob("*") if path.is_file())
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert expected - carried == set()
    assert {"app/web/preview.html", "worker/inference/native/cpp/product.cpp"} <= expected


def test_the_command_starts_among_strangers(installed: Path, elsewhere: Path) -> None:
    done = run([installed / "loramill", "--help"], elsewhere)
    assert done.returncode == 0, done.stderr
    assert "Fine-tune small language models" in done.stdout


def test_the_command_finds_the_migrations(installed: Path, elsewhere: Path) -> None:
    done = run([installed / "loramill", "migrate"], elsewhere)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "home" / "loramill.db").is_file()


def test_a_process_that_the_command_becomes_is_ours(installed: Path, elsewhere: Path) -> None:
    done = run([installed / "loramill", "engine", "--base-model", "nonesuch", "--port", "1"], elsewhere)
    assert done.returncode == 1
    assert "nonesuch" in done.stdout + done.stderr
    assert "the other worker" not in done.stderr


def test_the_in_process_api_works_among_strangers(installed: Path, elsewhere: Path) -> None:
    done = run([installed / "python", "-c", "from loramill import Renderer; print(Renderer.__module__)"], elsewhere)
    assert done.stdout == "loramill.renderer\n", done.stderr
