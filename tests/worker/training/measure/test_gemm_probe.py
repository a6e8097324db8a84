from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.worker.training.conftest import MakeModel
from worker.training.measure import gemm_probe
from worker.training.measure.gemm_probe import probe_flops_per_s

TOKENS = 16
HIDDEN, INNER = 80, 160  # of the tiny Phi


def _ticks(step_s: float) -> Iterator[float]:
    now_s = 0.0
    while True:
        yield now_s
        now_s += step_s


def test_the_fastest_product_of_the_models_own_shapes_sets_the_peak(tiny_phi: Path, make_model: MakeModel) -> None:
    ticks = _ticks(0.001)
    measured = probe_flops_per_s(make_model(tiny_phi), TOKENS, clock=lambda: next(ticks))
    assert measured == pytest.approx(2 * TOKENS * HIDDEN * INNER / 0.001)


def test_each_shape_is_multiplied_forwards_and_backwards(
    tiny_phi: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def look(left: torch.Tensor, right: torch.Tensor, *_: object, **__: object) -> float:
        seen.add((tuple(left.shape), tuple(right.shape), left.dtype))
        return 1.0

    monkeypatch.setattr(gemm_probe, "_fastest_s", look)
    probe_flops_per_s(make_model(tiny_phi), TOKENS)
    shapes = [(HIDDEN, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)]
    assert seen == {((TOKENS, rows), (rows, columns), torch.float32) for rows, columns in shapes}


def test_it_leaves_the_random_numbers_of_training_alone(tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi)
    before = torch.get_rng_state()
    assert probe_flops_per_s(model, TOKENS) > 0
    assert torch.equal(torch.get_rng_state(), before)
