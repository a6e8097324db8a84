"""Where the time of steps goes, and how near they come to what the machine can do, for Prometheus to fetch.

Nothing is measured here; ``metrics`` has it with an engine's other numbers.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from worker.inference.metrics.measured_gauge import MeasuredGauge
from worker.inference.model.step_part import StepPart

if TYPE_CHECKING:  # it imports torch, and metrics are there before that
    from worker.inference.metrics.machine_probe import MachineSpeed

REST: Final = "rest"  # of a step: norms, activations, and what Python does
_SHARES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class StepMetrics:
    """One engine's; any thread may call any method."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._probe: MachineSpeed | None = None  # before it was told
        self._probe_read = MeasuredGauge(
            "loramill_engine_probe_read_bytes_per_second", "Reading memory, as a trial found it.", registry=registry
        )
        self._probe_flops = MeasuredGauge(
            "loramill_engine_probe_flops_per_second", "Multiplying matrices, as a trial found it.", registry=registry
        )
        self._decode_share = Histogram(
            "loramill_engine_decode_bandwidth_ratio",
            "Of the probe's reading, that of each step without prompts.",
            buckets=_SHARES,
            registry=registry,
        )
        self._prefill_share = Histogram(
            "loramill_engine_prefill_flops_ratio",
            "Of the probe's multiplying, that of steps that only read prompts.",
            buckets=_SHARES,
            registry=registry,
        )
        self._part_seconds = Counter(
            "loramill_engine_step_part_seconds",
            "Length of the steps that were taken apart, by part.",
            ("part",),
            registry=registry,
        )
        for part in (*StepPart, REST):
            self._part_seconds.labels(part)  # each is there from the beginning

    def parts(self, parts: Mapping[StepPart, float], seconds: float) -> None:
        """Tell where the time of one step went that was taken apart; what is in none of the parts is the rest."""
        for part, part_s in parts.items():
            self._part_seconds.labels(part).inc(part_s)
        self._part_seconds.labels(REST).inc(max(0.0, seconds - sum(parts.values())))  # rounded, it may be below 0

    def probed(self, probe: "MachineSpeed") -> None:
        """Tell what the machine can do; only steps after this are held against it."""
        self._probe = probe
        self._probe_read.set(probe.read_bytes_per_s)
        self._probe_flops.set(probe.flops_per_s)

    def decode_rate(self, bytes_per_s: float) -> None:
        """Tell what a step that read no prompt had to read, per second that it took."""
        if self._probe is not None:
            self._decode_share.observe(bytes_per_s / self._probe.read_bytes_per_s)

    def prefill_rate(self, flops_per_s: float) -> None:
        """Tell what steps that only read prompts had to multiply, in operations per second that they took."""
        if self._probe is not None:
            self._prefill_share.observe(flops_per_s / self._probe.flops_per_s)
