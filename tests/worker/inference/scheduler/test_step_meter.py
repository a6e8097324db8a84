"""What steps had to read and multiply, and where their time went, from the requests in them and from a real model."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.models.served_models import serve_fp32
from tests.worker.inference.engine_harness import EngineHarness, complete, make_request
from tests.worker.inference.scheduler.fake_runner import SHAPE, FakeRunner
from tests.worker.inference.scheduler.loop_harness import LoopHarness
from worker.inference.engine import LocalEngine
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.metrics.machine_probe import MachineSpeed
from worker.inference.metrics.step_metrics import StepMetrics
from worker.inference.model.contract import ModelSize
from worker.inference.model.runner_building import build_runner
from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import StepTimer
from worker.inference.scheduler.step_meter import StepMeter
from worker.inference.scheduler.step_plan import RunningRow, ScheduledRow

SIZE = ModelSize(weight_bytes=1000, block_weights=30, head_weights=7)
NEVER = 10**9


class RecordedMetrics(StepMetrics):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.parts_of_steps: list[tuple[Mapping[StepPart, float], float]] = []
        self.decode_rates: list[float] = []
        self.prefill_rates: list[float] = []

    def parts(self, parts: Mapping[StepPart, float], seconds: float) -> None:
        self.parts_of_steps.append((parts, seconds))

    def decode_rate(self, bytes_per_s: float) -> None:
        self.decode_rates.append(bytes_per_s)

    def prefill_rate(self, flops_per_s: float) -> None:
        self.prefill_rates.append(flops_per_s)


class SizedRunner(FakeRunner):
    """Of a size of its own, and so often taken apart; the meter computes nothing."""

    def __init__(self, every: int) -> None:
        super().__init__(vocab_size=300)
        self.size = SIZE
        self.timer = StepTimer(SHAPE.device, every=every)
        self.failures = 1


class MeterHarness:
    """A meter, what it recorded, and rows for it."""

    def __init__(self, home: Path, every: int = NEVER) -> None:
        self.loop = LoopHarness(home)
        self.metrics = RecordedMetrics()
        self.runner = SizedRunner(every)
        self.meter = StepMeter(self.runner, self.metrics)

    def decodes(self, held: int, adapter: Adapter | None = None) -> ScheduledRow:
        return self._schedule(held, adapter, is_prefill=False, tokens=1, wanted=1)

    def prefills(self, tokens: int, wanted: int) -> ScheduledRow:
        return self._schedule(0, None, is_prefill=True, tokens=tokens, wanted=wanted)

    def step(self, *rows: ScheduledRow, seconds: float = 2.0) -> None:
        self.meter.begin()
        self.meter.end(rows, seconds)

    def _schedule(
        self, held: int, adapter: Adapter | None, *, is_prefill: bool, tokens: int, wanted: int
    ) -> ScheduledRow:
        slot = self.runner.kv.allocate(200)
        assert slot is not None
        slot.length = held
        row = RunningRow(self.loop.prepare("x", adapter).scheduled, slot)
        return ScheduledRow(row, [1] * tokens, wanted, is_prefill=is_prefill)


def test_a_step_that_decodes_reads_the_weights_its_rows_cache_and_each_adapter_once(tmp_path: Path) -> None:
    harness = MeterHarness(tmp_path)
    small, large = harness.loop.adapter("small"), harness.loop.adapter("large", rank=16)
    harness.step(
        harness.decodes(10, small), harness.decodes(20, small), harness.decodes(30, large), harness.decodes(40)
    )
    right = SIZE.weight_bytes + 100 * SHAPE.bytes_per_token + small.bytes + large.bytes
    assert harness.metrics.decode_rates == [right / 2]
    assert harness.metrics.prefill_rates == []


def test_a_step_that_is_prefills_multiplies_all_tokens_with_the_blocks_and_the_wanted_with_the_head(
    tmp_path: Path,
) -> None:
    harness = MeterHarness(tmp_path)
    harness.step(harness.prefills(50, 1), harness.prefills(10, 10))
    assert harness.metrics.prefill_rates == [2 * (30 * 60 + 7 * 11) / 2]
    assert harness.metrics.decode_rates == []


def test_prefill_chunks_count_with_the_step_that_waits_for_the_device(tmp_path: Path) -> None:
    harness = MeterHarness(tmp_path)
    harness.step(harness.prefills(512, 0), seconds=0.5)
    harness.step(harness.prefills(512, 0), seconds=0.5)
    assert harness.metrics.prefill_rates == []
    harness.step(harness.prefills(6, 1), seconds=3.0)
    harness.step(harness.prefills(4, 1), seconds=1.0)
    assert harness.metrics.prefill_rates == [2 * (30 * 1030 + 7) / 4, 2 * (30 * 4 + 7)]


def test_a_step_of_both_kinds_has_no_rate_and_ends_what_was_counted(tmp_path: Path) -> None:
    harness = MeterHarness(tmp_path)
    harness.step(harness.prefills(512, 0), seconds=0.5)
    harness.step(harness.prefills(512, 0), harness.decodes(5))
    harness.step(harness.prefills(4, 1), seconds=1.0)
    assert harness.metrics.prefill_rates == [2 * (30 * 4 + 7)]
    assert harness.metrics.decode_rates == []


def test_a_step_that_is_taken_apart_tells_its_parts_and_has_no_rate(tmp_path: Path) -> None:
    harness = MeterHarness(tmp_path, every=2)
    for _ in range(4):
        harness.step(harness.decodes(5))
    assert harness.metrics.parts_of_steps == [(dict.fromkeys(StepPart, 0.0), 2.0)] * 2
    assert len(harness.metrics.decode_rates) == 2


class MeasuredEngine:
    """A real model that answers two requests, and what its metrics say then."""

    def __init__(self, harness: EngineHarness, *, every: int) -> None:
        served = serve_fp32(harness.base_folder)
        runner = build_runner(served, harness.settings())
        runner.timer = StepTimer(served.device, every=every)
        self._metrics = EngineMetrics()
        self._metrics.steps.probed(MachineSpeed(read_bytes_per_s=1e9, flops_per_s=1e9))
        engine = LocalEngine(
            "tiny", served, harness.blobs, harness.settings(), self._metrics, on_death=pytest.fail, runner=runner
        )
        engine.start()
        asyncio.run(self._answer(engine, harness.add_adapter()))

    def read(self, name: str, **labels: str) -> float:
        value = self._metrics.registry.get_sample_value(f"loramill_engine_{name}", labels)
        assert value is not None
        return value

    async def _answer(self, engine: LocalEngine, adapter: str) -> None:
        try:
            for digest in (adapter, None):
                await complete(engine, make_request("prompt", adapter=digest, max_tokens=8, ignore_end=True))
        finally:
            await engine.close()


def test_the_parts_of_a_real_models_steps_all_take_time_and_together_no_more_than_the_steps(
    each_harness: EngineHarness,
) -> None:
    measured = MeasuredEngine(each_harness, every=1)
    parts = [measured.read("step_part_seconds_total", part=part) for part in (*StepPart, "rest")]
    assert min(parts) > 0
    # were the parts of a step longer than the step, there would be no rest to make up for it
    assert sum(parts) == pytest.approx(measured.read("step_seconds_sum"))


def test_a_real_models_steps_are_held_against_the_probe(each_harness: EngineHarness) -> None:
    measured = MeasuredEngine(each_harness, every=NEVER)
    for name in ("decode_bandwidth_ratio", "prefill_flops_ratio"):
        assert measured.read(f"{name}_count") > 0
        assert 0 < measured.read(f"{name}_sum") < float("inf")
