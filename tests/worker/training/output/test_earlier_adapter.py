"""Runs that go on from the adapter of an earlier one."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import AdapterInvalid, AdapterUnchanged, CheckpointInvalid
from core.jobs.spec import AdapterRef
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from tests.worker.training.run_folders import SUMS, Killed, kill_after, train, write_run
from worker.trainer_process.messages import Evaluated, Finished, Note, StepDone
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS, CONTINUE_FROM

NAME = "ft:tiny:local::1"
ONE_EPOCH: dict[str, Any] = {"n_epochs": 1}
DORA = {"rank": 4, "alpha": 8, "use_dora": True, "use_rslora": True}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, tiny_phi: Path) -> Path:
    """A finished run's adapter."""
    folder = write_run(tmp_path_factory.mktemp("earlier") / "run", tiny_phi, **ONE_EPOCH)
    train(folder)
    return folder / ADAPTER


def _continue(folder: Path, base: Path, adapter: Path, **job: Any) -> Path:
    """Write a run folder for a job that goes on from an adapter, with the adapter in it, as the worker does."""
    digest = hashlib.sha256((adapter / MANIFEST).read_bytes()).hexdigest()
    ref = AdapterRef(name=NAME, adapter_sha256=digest)
    write_run(folder, base, continue_from=ref, **ONE_EPOCH | job)
    shutil.copytree(adapter, folder / CONTINUE_FROM)
    return folder


def test_its_first_evaluation_is_the_earlier_runs_last(tmp_path: Path, tiny_phi: Path) -> None:
    """Equal bits of the loss before the first step: weights, scale and the split of the data are the same."""
    earlier = write_run(tmp_path / "earlier", tiny_phi, **ONE_EPOCH)
    last = train(earlier).of(Evaluated)[-1]
    reporter = train(_continue(tmp_path / "run", tiny_phi, earlier / ADAPTER))
    first = reporter.of(Evaluated)[0]
    assert (first.step, first.loss) == (0, last.loss)
    end = reporter.of(Evaluated)[-1].loss
    assert first.loss is not None
    assert end is not None
    assert end < first.loss
    assert any(f"Starts from the weights of {NAME}" in note.message for note in reporter.of(Note))


def test_resumed_it_equals_the_uninterrupted_run_to_the_bit(tmp_path: Path, tiny_phi: Path, earlier: Path) -> None:
    whole = _continue(tmp_path / "whole", tiny_phi, earlier)
    train(whole)
    folder = _continue(tmp_path / "killed", tiny_phi, earlier)
    with pytest.raises(Killed):
        train(folder, kill_after(3))
    train(folder)
    assert (folder / ADAPTER / MANIFEST).read_bytes() == (whole / ADAPTER / MANIFEST).read_bytes()


def test_a_checkpoint_of_another_start_is_not_resumed(tmp_path: Path, tiny_phi: Path, earlier: Path) -> None:
    fresh = write_run(tmp_path / "fresh", tiny_phi, **ONE_EPOCH)
    train(fresh)
    checkpoint = fresh / CHECKPOINTS / "step-000005"
    folder = _continue(tmp_path / "run", tiny_phi, earlier, resume_from=(checkpoint,))
    with pytest.raises(CheckpointInvalid, match="specification"):
        train(folder)


def test_an_adapter_of_dora_can_be_gone_on_from(tmp_path: Path, tiny_phi: Path) -> None:
    first = write_run(tmp_path / "first", tiny_phi, lora=DORA, **ONE_EPOCH)
    last = train(first).of(Evaluated)[-1]
    reporter = train(_continue(tmp_path / "second", tiny_phi, first / ADAPTER, lora=DORA))
    assert reporter.of(Evaluated)[0].loss == last.loss


def test_training_that_changes_nothing_is_seen_here_too(tmp_path: Path, tiny_phi: Path, earlier: Path) -> None:
    with pytest.raises(AdapterUnchanged, match=NAME):
        train(_continue(tmp_path / "run", tiny_phi, earlier, learning_rate=0.0))


def _tear(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"torn")


def _change_weights(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1  # of a value: size and header stay
    (folder / WEIGHTS).write_bytes(content)


def _change_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"step": 99}))


@pytest.mark.parametrize("change", [_tear, _change_weights, _change_manifest])
def test_files_that_are_not_the_adapters_are_refused(
    tmp_path: Path, tiny_phi: Path, earlier: Path, change: Callable[[Path], None]
) -> None:
    folder = _continue(tmp_path / "run", tiny_phi, earlier)
    change(folder / CONTINUE_FROM)
    with pytest.raises(AdapterInvalid, match=NAME):
        train(folder)


def test_another_base_models_adapter_is_refused(
    tmp_path: Path, tiny_phi: Path, tiny_llama: Path, earlier: Path
) -> None:
    fingerprint = parse_manifest((earlier / MANIFEST).read_bytes()).base_model_fingerprint
    with pytest.raises(AdapterInvalid, match=fingerprint[:12]):
        train(_continue(tmp_path / "run", tiny_llama, earlier))


@pytest.mark.parametrize(
    "lora", [{"rank": 2, "alpha": 8}, {"rank": 4, "alpha": 4}, {"rank": 4, "alpha": 8, "use_rslora": True}]
)
def test_another_shape_is_refused(tmp_path: Path, tiny_phi: Path, earlier: Path, lora: dict[str, Any]) -> None:
    with pytest.raises(AdapterInvalid, match="another shape"):
        train(_continue(tmp_path / "run", tiny_phi, earlier, lora=lora))


def test_another_dropout_is_no_other_shape(tmp_path: Path, tiny_phi: Path, earlier: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.2}
    reporter = train(_continue(tmp_path / "run", tiny_phi, earlier, lora=lora, lines=SUMS[:8]))
    assert reporter.of(StepDone)
    assert len(reporter.of(Finished)) == 1
