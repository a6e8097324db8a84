"""What this machine can do: how fast its memory is read, and how fast it multiplies matrices.

With as many threads as torch has at the moment, in the process that is compared with it. Knows no model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from pydantic import Field, TypeAdapter

from worker.inference.tuning.autotuner import Trial
from worker.inference.tuning.trial_timer import TrialTimer

# By device, of `probe`. Bytes far beyond any level of cache, and square matrices that are large enough for full speed.
READ_BYTES: Final = {"cpu": 2**28, "cuda": 2**31}
SIZE: Final = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class MachineSpeed:
    """The best of several tries."""

    read_bytes_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    flops_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def __str__(self) -> str:
        return f"memory read at {self.read_bytes_per_s / 1e9:.1f} GB/s, {self.flops_per_s / 1e9:.0f} GFLOP/s"


def probe_trial(device: torch.device, dtype: torch.dtype, use: Callable[[MachineSpeed], None]) -> Trial[MachineSpeed]:
    """Make the trial that measures the machine; until it did, nothing is held against it."""
    return Trial("machine", TypeAdapter(MachineSpeed), None, lambda timer: probe(device, dtype, timer), use)


def probe(device: torch.device, dtype: torch.dtype, timer: TrialTimer) -> MachineSpeed:
    """Measure reading, and products in a model's type; takes a fraction of a second."""
    try:
        return MachineSpeed(
            read_bytes_per_s=probe_read(device, READ_BYTES[device.type], timer),
            flops_per_s=probe_product(device, dtype, SIZE[device.type], timer),
        )
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()  # or what was read would count as taken


def probe_read(device: torch.device, size_bytes: int, timer: TrialTimer) -> float:
    """Give bytes a second of reading a buffer, by the faster of two ways that convert nothing."""
    numbers = torch.ones(size_bytes // 4, device=device)
    whole = numbers.view(torch.int64)
    ways = (lambda: torch.dot(numbers, numbers), lambda: whole.sum())
    return size_bytes / min(timer.fastest_s(way) for way in ways)


def probe_product(device: torch.device, dtype: torch.dtype, size: int, timer: TrialTimer) -> float:
    """Give operations a second of multiplying two square matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / timer.fastest_s(lambda: left @ right)
