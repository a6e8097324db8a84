"""What this machine can do: how fast its memory is read, and how fast it multiplies matrices.

With as many threads as torch has at the moment, in the process that is compared with it. Knows no model.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

logger = logging.getLogger(__name__)

# By device, of `probe`. Bytes far beyond any level of cache, and square matrices that are large enough for full speed.
READ_BYTES: Final = {"cpu": 2**28, "cuda": 2**31}
SIZE: Final = {"cpu": 1024, "cuda": 8192}
BUDGET_S: Final = 0.1  # for each way of reading, and for the product


@dataclass(frozen=True)
class MachineSpeed:
    """The best of several tries."""

    read_bytes_per_s: float
    flops_per_s: float


def probe(device: torch.device, dtype: torch.dtype) -> MachineSpeed:
    """Measure reading, and products in a model's type; takes a fraction of a second."""
    found = MachineSpeed(
        read_bytes_per_s=probe_read(device, READ_BYTES[device.type], BUDGET_S),
        flops_per_s=probe_product(device, dtype, SIZE[device.type], BUDGET_S),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or what was read would count as taken
    logger.info(
        "memory is read at %.1f GB/s, and matrices of %s are multiplied at %.0f GFLOP/s",
        found.read_bytes_per_s / 1e9,
        str(dtype).removeprefix("torch."),
        found.flops_per_s / 1e9,
    )
    return found


def probe_read(device: torch.device, size_bytes: int, budget_s: float) -> float:
    """Give bytes a second of reading a buffer, by the faster of two ways that convert nothing."""
    numbers = torch.ones(size_bytes // 4, device=device)
    whole = numbers.view(torch.int64)
    ways = (lambda: torch.dot(numbers, numbers), lambda: whole.sum())
    return size_bytes / min(_best_s(way, device, budget_s) for way in ways)


def probe_product(device: torch.device, dtype: torch.dtype, size: int, budget_s: float) -> float:
    """Give operations a second of multiplying two square matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best_s(lambda: left @ right, device, budget_s)


def _best_s(work: Callable[[], Any], device: torch.device, budget_s: float) -> float:
    """Give the shortest of the times until the budget is used, of two at least: the first one also sets up."""
    tries: list[float] = []
    first_s = ended_s = time.perf_counter()
    while len(tries) < 2 or ended_s < first_s + budget_s:
        began_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended_s = time.perf_counter()
        tries.append(ended_s - began_s)
    return min(tries)
