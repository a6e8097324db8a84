"""The kernels of each level of CPU that this machine has, built once a session; without a compiler they are skipped."""

import shutil
from pathlib import Path

import pytest

from core.process.cpu_levels import Level, list_own_levels
from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from worker.inference.native import build
from worker.inference.native.kernels import Kernels
from worker.native import compiling


@pytest.fixture(scope="session")
def compiler() -> str:
    """Path of a C++ compiler."""
    for name in compiling.COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no C++ compiler is on this machine")


@pytest.fixture(scope="session")
def native_folder(compiler: str) -> Path:
    """Folder with the built kernels, which are those of the engines of this run."""
    folder = Settings(home=home_with_kernels()).kernels_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "PREBUILT", folder / "nothing")
        assert build.load(folder) is not None
    return folder


@pytest.fixture(scope="session", params=list_own_levels(), ids=lambda level: level.name)
def kernels(request: pytest.FixtureRequest, native_folder: Path) -> Kernels:
    level: Level = request.param
    kernels = build.load(native_folder, level.name)
    assert kernels is not None
    assert f"-{level.name}-" in kernels.name
    return kernels
