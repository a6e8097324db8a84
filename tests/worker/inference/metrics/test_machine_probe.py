"""What the machine can do is measured anew, with the model's own type."""

import logging
from types import SimpleNamespace

import pytest
import torch

from worker.inference.metrics import machine_probe as probing
from worker.inference.metrics.machine_probe import probe, probe_product, probe_read

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_probe_measures_reading_and_products_and_logs_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(probing, "READ_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(probing, "SIZE", {"cpu": 32})
    monkeypatch.setattr(probing, "BUDGET_S", 0.0)
    with caplog.at_level(logging.INFO):
        found = probe(CPU, dtype)
    assert 0 < found.read_bytes_per_s < float("inf")
    assert 0 < found.flops_per_s < float("inf")
    assert str(dtype).removeprefix("torch.") in caplog.text


def count(monkeypatch: pytest.MonkeyPatch, *ticks: float) -> None:
    """Have the probe read these times."""
    monkeypatch.setattr(probing, "time", SimpleNamespace(perf_counter=iter(ticks).__next__))


def test_a_rate_is_of_the_shortest_try_until_the_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 0, 0, 4, 10, 12, 20, 28, 30, 31)  # the last try begins after the budget
    assert probe_product(CPU, torch.float32, 8, budget_s=15) == 2 * 8**3 / 2


def test_the_faster_way_of_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 0, 0, 8, 10, 18, 20, 20, 24, 30, 34)
    assert probe_read(CPU, 1024, budget_s=0) == 1024 / 4
