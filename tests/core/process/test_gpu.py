"""When a process is to compute on a GPU."""

from pathlib import Path

import pytest

from core.process import gpu
from core.process.gpu import VISIBLE, expects_gpu


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "nvidiactl"
    device.touch()
    monkeypatch.setattr(gpu, "DEVICE", device)
    return device


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({VISIBLE: "0,1"}, True),
        ({VISIBLE: ""}, False),
        ({VISIBLE: "-1"}, False),
        ({VISIBLE: " -1 "}, False),
    ],
)
def test_it_is_unless_the_gpu_was_hidden(device: Path, environ: dict[str, str], expected: bool) -> None:
    assert expects_gpu(environ) is expected


def test_it_is_not_where_no_gpu_was_given(device: Path) -> None:
    device.unlink()
    assert not expects_gpu({})
