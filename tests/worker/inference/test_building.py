"""An engine is built with all of its trials, and the next one on the same machine makes none of them again."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from core.base_models.registry import BaseModelEntry, Folder
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_phi
from worker.inference import building
from worker.inference.building import build_engine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.tuning.autotuner import Autotuner

TRIED = ("machine", "rows computed together up to tokens", "step budget")

Build = Callable[..., EngineMetrics]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Build:
    """Build an engine on a machine that is quiet and as fast as it likes, with these settings; give its metrics."""
    monkeypatch.setattr(building, "Autotuner", functools.partial(Autotuner, waited=lambda: 0.0, budget_s=600))
    folder = write_tiny_phi(tmp_path / "base")
    base = BaseModelEntry(name="tiny", source=Folder(path=folder), dtype="float32")
    share_kernels(tmp_path)
    caplog.set_level(logging.INFO)

    def build(*, tries_first: bool = True, **settings: object) -> EngineMetrics:
        caplog.clear()
        metrics = EngineMetrics()
        blobs = LocalBlobStore(tmp_path / "store")
        chosen = Settings(home=tmp_path, **settings)  # type: ignore[arg-type]
        build_engine(base, folder, blobs, chosen, metrics, on_death=lambda: None, tries_first=tries_first)
        return metrics

    return build


def _said(caplog: pytest.LogCaptureFixture, beginning: str) -> str:
    return "".join(message for message in caplog.messages if message.startswith(beginning))


def _probed(metrics: EngineMetrics) -> bool:
    lines = metrics.exposition().decode().splitlines()
    return any(
        "probe_read_bytes_per_second " in line and float(line.split()[-1]) > 0 for line in lines if line[0] != "#"
    )


def test_the_second_build_uses_what_the_first_has_found(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    assert _probed(build())
    assert all(name in _said(caplog, "found by") for name in TRIED)
    assert _probed(build())
    assert all(name in _said(caplog, "remembered") for name in TRIED)
    assert _said(caplog, "found by") == ""


def test_what_was_found_with_other_settings_is_not_used(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    build()
    build(engine_speculation=False)
    assert all(name in _said(caplog, "found by") for name in TRIED)


def test_what_settings_give_is_not_tried(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    build(engine_speculation=False, engine_prefill_tokens=64, engine_native=False)
    found = _said(caplog, "found by")
    assert "machine" in found
    assert "step budget" not in found
    assert "multiply-adds" not in found


def test_a_gpu_that_cannot_be_used_is_told(
    build: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "find_gpu_fault", lambda environ: "CUDA unknown error")
    build()
    assert _said(caplog, "this engine computes on the CPU").endswith("its GPU cannot be used: CUDA unknown error")


def test_an_engine_that_is_waited_for_leaves_trials_to_its_idle_time(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    assert not _probed(build(tries_first=False))
    assert all(name in _said(caplog, "to be timed when the engine is idle") for name in TRIED)
    build()
    assert _probed(build(tries_first=False))
    assert _said(caplog, "to be timed") == ""
