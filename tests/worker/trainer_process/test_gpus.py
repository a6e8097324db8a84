"""GPUs are counted as CUDA would show them, from what the driver's own tool says."""

from pathlib import Path

import pytest

from worker.trainer_process.gpus import count_gpus, visible

FOUR = "".join(f"GPU {number}: NVIDIA H100 80GB HBM3 (UUID: GPU-{number}a2b-77)\n" for number in range(4))
SLICED = f"{FOUR}  MIG 1g.10gb Device 0: (UUID: MIG-3c5f)\n  MIG 1g.10gb Device 1: (UUID: MIG-9d01)\n"


@pytest.mark.parametrize(
    ("listing", "chosen", "expected"),
    [
        (FOUR, None, 4),
        ("", None, 0),
        (FOUR, "", 0),
        (FOUR, "2", 1),
        (FOUR, "3, 1", 2),
        (FOUR, "0,7,1", 1),
        (FOUR, "0,-1,1", 1),
        (FOUR, "GPU-1a,GPU-3a2b-77", 2),
        (FOUR, "GPU-9,0", 0),
        ("", "0,1", 0),
        (SLICED, None, 1),
    ],
)
def test_counts_what_cuda_would_show(listing: str, chosen: str | None, expected: int) -> None:
    assert visible(listing, chosen) == expected


def _tool(folder: Path, script: str) -> Path:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}")
    tool.chmod(0o755)
    return tool


def test_asks_the_drivers_tool(tmp_path: Path) -> None:
    _tool(tmp_path, f"[ \"$1\" = -L ] && printf '{FOUR}'")
    assert count_gpus({"PATH": str(tmp_path)}) == 4
    assert count_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,2"}) == 2


def test_a_tool_that_finds_no_driver_or_no_tool_means_no_gpu(tmp_path: Path) -> None:
    assert count_gpus({"PATH": str(tmp_path)}) == 0
    _tool(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert count_gpus({"PATH": str(tmp_path)}) == 0
