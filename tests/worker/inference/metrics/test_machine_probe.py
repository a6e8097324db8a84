"""What the machine can do is measured anew, with the model's own type."""

import pytest
import torch

from worker.inference.metrics import machine_probe as probing
from worker.inference.metrics.machine_probe import probe, probe_product, probe_read
from worker.inference.tuning.trial_timer import TrialTimer

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_probe_measures_reading_and_products(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(probing, "READ_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(probing, "SIZE", {"cpu": 32})
    found = probe(CPU, dtype, TrialTimer(CPU, trial_s=0.0))
    assert 0 < found.read_bytes_per_s < float("inf")
    assert 0 < found.flops_per_s < float("inf")


def reading(*ticks: float) -> TrialTimer:
    """Have a timer read these times."""
    return TrialTimer(CPU, trial_s=0, clock=iter(ticks).__next__)


def test_a_rate_is_of_the_fastest_product() -> None:
    assert probe_product(CPU, torch.float32, 8, reading(0, 0, 4, 10, 12, 20, 28)) == 2 * 8**3 / 2


def test_the_faster_way_of_reading_counts() -> None:
    timer = reading(0, 0, 8, 10, 18, 20, 28, 30, 30, 34, 40, 44, 50, 58)
    assert probe_read(CPU, 1024, timer) == 1024 / 4
