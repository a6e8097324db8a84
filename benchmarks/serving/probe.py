"""What this machine can do, measured in the process of what is compared with it: the roof moves between runs.

As the engine measures it when it starts, but for longer, and in both types unless one is hopeless here.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from benchmarks.host.number_types import BOTH, NumberTypes, probe_number_types
from worker.inference.metrics import machine_probe as engine_probe
from worker.inference.tuning.trial_timer import TrialTimer
from worker.models.precision import resolve_dtype

READ_BYTES: Final = 512 * 2**20
SIZE: Final = 2048  # of a square product
BUDGET_S: Final = 0.5  # for each measurement
MOST_TRIES: Final = 1000


@dataclass(frozen=True)
class BestOfProbes:
    """The best of several tries; of products None in a type that is hopeless here, and was not tried at this size."""

    threads: int
    read_gb_per_s: float
    bf16_gflop_per_s: float | None
    fp32_gflop_per_s: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(
    types: NumberTypes,
    device: str = "cpu",
    *,
    read_bytes: int = READ_BYTES,
    size: int = SIZE,
    budget_s: float = BUDGET_S,
) -> BestOfProbes:
    """Measure how fast memory is read and matrices are multiplied, with as many threads as torch has now."""
    rates = {
        dtype: engine_probe.probe_product(
            torch.device(device), resolve_dtype(dtype), size, _trial_timer(device, budget_s)
        )
        for dtype in types.measured
    }
    bf16, fp32 = (rates[dtype] / 1e9 if dtype in rates else None for dtype in BOTH)
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
    print(json.dumps(probe(probe_number_types()).as_dict()))


if __name__ == "__main__":
    main()
