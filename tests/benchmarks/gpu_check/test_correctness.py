"""Parts fail where what they try is wrong; what a CPU has none of is stood in for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import serving_correctness, training_correctness
from benchmarks.gpu_check.parts import NotHeld, Setting
from tests.harness.models.tiny_models import write_tiny_llama
from tests.harness.one_thread import one_thread
from tests.worker.inference.model.replaying_recorder import BrokenRecorder, ReplayingRecorder
from worker.inference.model import runner_building
from worker.inference.model.cuda_recorder import Recorder
from worker.training.model import blocks
from worker.training.model.attention import SdpaAttention


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", True, tmp_path)


@pytest.fixture
def few_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_correctness, "MIXES", 10)


def record_with(kind: type[Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        runner_building, "_make_recorder", lambda _, settings: kind() if settings.engine_cuda_graphs else None
    )


def test_recorded_steps_are_held_against_others(
    setting: Setting, few_mixes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: dict[str, Any] = {}
    record_with(ReplayingRecorder, monkeypatch)
    serving_correctness.compare_graphs(setting, figures.__setitem__)
    assert {name: mixes for name, (mixes, recorded) in figures.items() if recorded} == {
        "phi, mixes and recordings kept": 10,
        "llama, mixes and recordings kept": 10,
    }


def test_an_engine_that_records_nothing_does_not_pass_for_one_that_replays(
    setting: Setting, few_mixes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_with(BrokenRecorder, monkeypatch)
    with pytest.raises(NotHeld, match="phi: no step was recorded"):
        serving_correctness.compare_graphs(setting, lambda *_: None)


def test_a_wrong_block_is_seen_though_the_trainer_goes_another_way(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "rotate", lambda tensor, *_: tensor)
    with pytest.raises(NotHeld, match="phi in float32 is computed by PackedPass"):
        training_correctness.compare_gradients(setting, lambda *_: None)


def test_segments_that_see_each_other_are_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    together = SdpaAttention((sum(training_correctness.LENGTHS),))
    monkeypatch.setattr(training_correctness, "make_attention", lambda *_: together)
    with pytest.raises(NotHeld, match="off float64"):
        training_correctness.compare_attention(setting, lambda *_: None)


def test_the_steps_that_are_tried_in_four_bits_lower_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_correctness, "EXAMPLES", 2)
    losses = training_correctness.train_briefly(write_tiny_llama(tmp_path / "base"), None)
    assert losses[-1] < losses[0]
