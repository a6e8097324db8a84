"""Tiny base models, written once, and a harness over each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi, write_tiny_qwen2
from tests.harness.one_thread import one_thread
from tests.worker.inference.engine_harness import EngineHarness


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def tiny_phi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi(tmp_path_factory.mktemp("base-models") / "tiny-phi")


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base-models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("base-models") / "tiny-qwen2")


@pytest.fixture
def harness(tiny_phi_folder: Path, tmp_path: Path) -> EngineHarness:
    """A harness over the tiny Phi, whose attention is the quickest to run."""
    return EngineHarness(tiny_phi_folder, tmp_path)


@pytest.fixture(params=["tiny-phi", "tiny-llama", "tiny-qwen2"])
def each_harness(request: pytest.FixtureRequest, tmp_path: Path) -> EngineHarness:
    """A harness over each architecture."""
    return EngineHarness(request.getfixturevalue(f"{request.param.replace('-', '_')}_folder"), tmp_path)
