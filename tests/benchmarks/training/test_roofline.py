"""The roofline of a tiny model, on machines of other number types than this one."""

import time
from pathlib import Path

import pytest

from benchmarks.training import ours, roofline
from benchmarks.training.cases import PHI_TARGETS
from benchmarks.training.measurement import MeasurementRequest, StepClock
from benchmarks.training.models import SHAPES, write_base
from benchmarks.training.rows import generate
from worker.models import precision


@pytest.mark.parametrize(("speedup", "kinds"), [(0.1, {"float32"}), (1.0, {"bfloat16", "float32"})])
def test_products_of_a_step_are_not_tried_in_a_type_that_is_hopeless_in_small_ones(
    speedup: float, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(precision, "bf16_speedup", lambda *_: speedup)
    monkeypatch.setattr(roofline, "ENOUGH_S", 0)
    base, shape = tmp_path / "base", SHAPES["phi-tiny"]
    write_base(base, shape, seed=0)
    request = MeasurementRequest("ours", str(base), "", PHI_TARGETS, 8, 8, 1e-3, 0, dtype="float32")
    rows = generate(8, 1, vocabulary=shape.vocabulary, seed=0).training
    found = ours.train(request, rows, StepClock(time.time(), lambda: None), tmp_path)()
    assert {name.split()[0] for name in found.products} == kinds
    assert found.seconds > 0
