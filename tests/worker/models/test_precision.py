"""Why a GPU that is there is not used.

What torch says here of CUDA is that it was not compiled for it: an error of its own start, as any other.
"""

from pathlib import Path

import pytest
import torch

from core.process import gpu
from worker.models.precision import find_gpu_fault


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("here CUDA starts")
    device = tmp_path / "nvidiactl"
    device.touch()
    monkeypatch.setattr(gpu, "DEVICE", device)
    monkeypatch.setattr(torch.version, "cuda", "12.8")


def test_the_fault_names_why_cuda_cannot_start() -> None:
    assert find_gpu_fault({}) == "Torch not compiled with CUDA enabled"


def test_there_is_none_where_the_gpu_was_hidden() -> None:
    assert find_gpu_fault({gpu.VISIBLE: "-1"}) is None


def test_there_is_none_where_there_is_no_gpu() -> None:
    gpu.DEVICE.unlink()
    assert find_gpu_fault({}) is None


def test_there_is_none_where_torch_was_installed_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert find_gpu_fault({}) is None
