"""Steps are harness by their parts, and held against what the machine can do."""

import pytest
from prometheus_client import CollectorRegistry

from worker.inference.metrics.machine_probe import MachineSpeed
from worker.inference.metrics.step_metrics import StepMetrics
from worker.inference.model.step_part import StepPart

PARTS = {StepPart.LINEAR: 0.5, StepPart.ATTENTION: 0.25, StepPart.LORA: 0.125, StepPart.SAMPLE: 0.0}


class MetricsHarness:
    """Metrics, and what Prometheus reads of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = StepMetrics(self.registry)

    def read(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"loramill_engine_{name}", labels)


def test_a_steps_parts_and_the_rest_make_the_whole_step() -> None:
    harness = MetricsHarness()
    harness.metrics.parts(PARTS, 1.0)
    harness.metrics.parts(PARTS, 1.0)
    seconds = {part: harness.read("step_part_seconds_total", part=part) for part in (*StepPart, "rest")}
    assert seconds == {"linear": 1.0, "attention": 0.5, "lora": 0.25, "sample": 0.0, "rest": 0.25}


def test_parts_that_are_longer_than_their_step_by_a_rounding_leave_no_rest() -> None:
    harness = MetricsHarness()
    harness.metrics.parts(PARTS, 0.874999)
    assert harness.read("step_part_seconds_total", part="rest") == 0


def test_every_part_is_there_before_the_first_step() -> None:
    harness = MetricsHarness()
    assert [harness.read("step_part_seconds_total", part=part) for part in (*StepPart, "rest")] == [0] * 5


def test_rates_are_shares_of_what_the_probe_found() -> None:
    harness = MetricsHarness()
    harness.metrics.probed(MachineSpeed(read_bytes_per_s=1000.0, flops_per_s=50.0))
    harness.metrics.decode_rate(620.0)
    harness.metrics.prefill_rate(20.0)
    assert harness.read("decode_bandwidth_ratio_sum") == pytest.approx(0.62)
    assert harness.read("decode_bandwidth_ratio_bucket", le="0.6") == 0
    assert harness.read("decode_bandwidth_ratio_bucket", le="0.7") == 1
    assert harness.read("prefill_flops_ratio_sum") == pytest.approx(0.4)
    assert (harness.read("probe_read_bytes_per_second"), harness.read("probe_flops_per_second")) == (1000, 50)


def test_without_a_probe_there_is_no_share() -> None:
    harness = MetricsHarness()
    harness.metrics.decode_rate(620.0)
    harness.metrics.prefill_rate(20.0)
    assert (harness.read("decode_bandwidth_ratio_count"), harness.read("prefill_flops_ratio_count")) == (0, 0)
