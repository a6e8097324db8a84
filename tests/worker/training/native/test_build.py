import logging
from pathlib import Path

import pytest
import torch

from core.process.cpu_levels import TRAINING_LEVELS, Level
from core.settings import CpuLevel
from tests.worker.training.conftest import trainer_library
from worker.native import compiling, library
from worker.training.native import build
from worker.training.native.build import load
from worker.training.native.kernels import TrainerKernels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout in which nobody compiled beforehand, on a machine of a level that is used."""
    monkeypatch.setattr(compiling, "PREBUILT", tmp_path / "nothing")
    monkeypatch.setattr(build, "choose_level", lambda _: Level(TRAINING_LEVELS[0], (), frozenset()))


def test_kernels_are_compiled_where_they_are_kept_and_found_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    assert load(tmp_path, CPU, torch.float32) is not None
    monkeypatch.setenv("CXX", f"{compiler} -DOTHERWISE")  # another name, so that nothing is found by accident
    built = list(tmp_path.iterdir())
    monkeypatch.delenv("CXX")
    assert load(tmp_path, CPU, torch.float32) is not None
    assert list(tmp_path.iterdir()) == built


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
