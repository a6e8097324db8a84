"""What this machine can do, measured in the process of what is compared with it: the roof moves between runs."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

READ_BYTES: Final = 512 * 2**20  # far beyond any level of cache
SIZE: Final = 2048  # of a square product
REPEATS: Final = 7


@dataclass(frozen=True)
class Probe:
    """The best of several tries."""

    threads: int
    read_gb_per_s: float
    bf16_gflop_per_s: float
    fp32_gflop_per_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(device: str = "cpu", *, read_bytes: int = READ_BYTES, size: int = SIZE, repeats: int = REPEATS) -> Probe:
    """Measure how fast memory is read and matrices are multiplied, with as many threads as torch has now."""
    return Probe(
        threads=torch.get_num_threads(),
        read_gb_per_s=probe_read(device, read_bytes=read_bytes, repeats=repeats),
        bf16_gflop_per_s=_probe_product(device, torch.bfloat16, size, repeats),
        fp32_gflop_per_s=_probe_product(device, torch.float32, size, repeats),
    )


def probe_read(device: str = "cpu", *, read_bytes: int = READ_BYTES, repeats: int = REPEATS) -> float:
    """Give GB/s of reading a buffer, by the faster of two ways that convert nothing: a conversion would be measured."""
    numbers = torch.ones(read_bytes // 4, device=device)
    whole = numbers.view(torch.int64)
    ways = (lambda: torch.dot(numbers, numbers), lambda: whole.sum())
    return read_bytes / 1e9 / min(_best_s(way, device, repeats) for way in ways)


def _probe_product(device: str, dtype: torch.dtype, size: int, repeats: int) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / 1e9 / _best_s(lambda: left @ right, device, repeats)


def _best_s(work: Callable[[], Any], device: str, repeats: int) -> float:
    best_s = float("inf")
    for _ in range(repeats + 1):  # the first one warms up, and is hardly ever the best
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - begin)
    return best_s


def main() -> None:
    """Print a probe as JSON."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(json.dumps(probe().as_dict()))


if __name__ == "__main__":
    main()
