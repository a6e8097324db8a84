"""What this machine can do, measured in the process of what is compared with it: the roof moves between runs.

As the engine measures it when it starts, but for longer, and in both types.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from worker.inference.metrics import machine_probe as engine_probe
from worker.inference.tuning.trial_timer import TrialTimer

READ_BYTES: Final = 512 * 2**20
SIZE: Final = 2048  # of a square product
BUDGET_S: Final = 0.5  # for each measurement
MOST_TRIES: Final = 1000


@dataclass(frozen=True)
class BestOfProbes:
    """The best of several tries."""

    threads: int
    read_gb_per_s: float
    bf16_gflop_per_s: float
    fp32_gflop_per_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(
    device: str = "cpu", *, read_bytes: int = READ_BYTES, size: int = SIZE, budget_s: float = BUDGET_S
) -> BestOfProbes:
    """Measure how fast memory is read and matrices are multiplied, with as many threads as torch has now."""
    bf16, fp32 = (
        engine_probe.probe_product(torch.device(device), dtype, size, _trial_timer(device, budget_s)) / 1e9
        for dtype in (torch.bfloat16, torch.float32)
    )
    return BestOfProbes(
        torch.get_num_threads(), probe_read(device, read_bytes=read_bytes, budget_s=budget_s), bf16, fp32
    )


def probe_read(device: str = "cpu", *, read_bytes: int = READ_BYTES, budget_s: float = BUDGET_S) -> float:
    """Give GB/s of reading a buffer."""
    return engine_probe.probe_read(torch.device(device), read_bytes, _trial_timer(device, budget_s)) / 1e9


def _trial_timer(device: str, budget_s: float) -> TrialTimer:
    return TrialTimer(torch.device(device), trial_s=budget_s, most_tries=MOST_TRIES)


def main() -> None:
    """Print a probe as JSON."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(json.dumps(probe().as_dict()))


if __name__ == "__main__":
    main()
