"""What this machine can do: how fast its memory is read, and how fast it multiplies matrices.

With as many threads as torch has at the moment, in the process that is compared with it. Knows no model.
"""

from dataclasses import dataclass
from typing import Final

import torch

from worker.inference.autotune import Autotuner

# By device, of `probe`. Bytes far beyond any level of cache, and square matrices that are large enough for full speed.
READ_BYTES: Final = {"cpu": 2**28, "cuda": 2**31}
SIZE: Final = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class MachineSpeed:
    """The best of several tries."""

    read_bytes_per_s: float
    flops_per_s: float


def probe(device: torch.device, dtype: torch.dtype, tuner: Autotuner) -> MachineSpeed:
    """Measure reading, and products in a model's type; takes a fraction of a second."""
    found = MachineSpeed(
        read_bytes_per_s=probe_read(device, READ_BYTES[device.type], tuner),
        flops_per_s=probe_product(device, dtype, SIZE[device.type], tuner),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or what was read would count as taken
    tuner.decide("memory", f"read at {found.read_bytes_per_s / 1e9:.1f} GB/s")
    name = str(dtype).removeprefix("torch.")
    tuner.decide("matrices", f"of {name} multiplied at {found.flops_per_s / 1e9:.0f} GFLOP/s")
    return found


def probe_read(device: torch.device, size_bytes: int, tuner: Autotuner) -> float:
    """Give bytes a second of reading a buffer, by the faster of two ways that convert nothing."""
    numbers = torch.ones(size_bytes // 4, device=device)
    whole = numbers.view(torch.int64)
    ways = (lambda: torch.dot(numbers, numbers), lambda: whole.sum())
    return size_bytes / min(tuner.fastest_s(way) for way in ways)


def probe_product(device: torch.device, dtype: torch.dtype, size: int, tuner: Autotuner) -> float:
    """Give operations a second of multiplying two square matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / tuner.fastest_s(lambda: left @ right)
