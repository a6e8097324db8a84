"""A tiny model and examples, and a home folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_llama
from tests.harness.models.trials import no_trials


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which registered models lie."""
    folder = tmp_path / "home"
    share_kernels(folder)
    monkeypatch.setenv("LORAMILL_HOME", str(folder))
    return folder


@pytest.fixture(scope="package", autouse=True)
def _no_trials() -> Iterator[None]:
    with no_trials():
        yield


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny-llama")
