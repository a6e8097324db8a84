"""The kernels of this machine, built once a session; where no compiler is at hand, what needs them is skipped."""

import shutil
from pathlib import Path

import pytest

from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from worker.inference.native import build, compiling
from worker.inference.native.kernels import Kernels

FOR_ANY_CPU = ("-std=c++17", "-O1", "-fPIC")


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
    assert build.load(folder) is not None
    return folder


@pytest.fixture(scope="session", params=[compiling.FLAGS, FOR_ANY_CPU], ids=["native", "any-cpu"])
def kernels(request: pytest.FixtureRequest, native_folder: Path) -> Kernels:
    """Kernels that use all of this CPU, and those that do without its wide registers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "FLAGS", request.param)
        kernels = build.load(native_folder)
    assert kernels is not None
    return kernels
