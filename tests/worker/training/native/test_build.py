import logging
from pathlib import Path

import pytest
import torch

from core.process.cpu_levels import TRAINING_LEVELS, Level, list_own_levels
from core.settings import CpuLevel, Settings
from tests.harness.models.kernels import home_with_kernels, write_copying_compiler
from tests.worker.training.conftest import trainer_library
from worker.native import compiling, library
from worker.native.compiling import TRAINER, find_or_compile
from worker.training.native import build
from worker.training.native.build import load
from worker.training.native.kernels import TrainerKernels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout in which nobody compiled beforehand, on a machine of a level that is used."""
    monkeypatch.setattr(compiling, "PREBUILT", tmp_path / "nothing")
    monkeypatch.setattr(build, "choose_level", lambda _: Level(TRAINING_LEVELS[0], (), frozenset()))


@pytest.mark.usefixtures("compiler")
def test_kernels_are_compiled_where_they_are_kept_and_found_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_before = find_or_compile(TRAINER, Settings(home=home_with_kernels()).kernels_folder, list_own_levels()[0])
    monkeypatch.setenv("CXX", str(write_copying_compiler(tmp_path / "compiler", built_before)))  # quick
    kept = tmp_path / "kernels"
    assert load(kept, CPU, torch.float32) is not None
    [built] = kept.iterdir()
    before = built.stat()
    assert load(kept, CPU, torch.float32) is not None
    assert list(kept.iterdir()) == [built]
    assert built.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("device", "dtype", "level"),
    [("cpu", torch.bfloat16, "avx2"), ("cuda", torch.float32, "avx2"), ("cpu", torch.float32, "avx512_bf16")],
)
def test_where_torch_is_no_slower_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, level: CpuLevel
) -> None:
    monkeypatch.setattr(build, "choose_level", lambda _: Level(level, (), frozenset()))
    assert load(tmp_path, torch.device(device), dtype) is None
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_means_no_kernels_and_a_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, CPU, torch.float32) is None
    (record,) = caplog.records
    assert "training is slower: /bin/false failed" in record.getMessage()


def test_kernels_that_differ_from_torch_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = TrainerKernels.rms_norm
    monkeypatch.setattr(TrainerKernels, "rms_norm", lambda self, x, w, eps: usual(self, x, w, 100 * eps))
    monkeypatch.setattr(library, "load_library", lambda *_: trainer_library())
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, CPU, torch.float32) is None
    (record,) = caplog.records
    assert "training is slower: rms_norm differs from torch" in record.getMessage()
