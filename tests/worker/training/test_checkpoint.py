from pathlib import Path

import pytest
import torch

from core.errors import CheckpointInvalid
from tests.worker.training.runs import RecordingReporter
from worker.messages import Note
from worker.training.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    CheckpointFolder,
    CheckpointState,
    find_resumable,
    read_checkpoint,
)

IDENTITY = {"specification": "1", "data set": "2"}


def _write(folder: CheckpointFolder, step: int, **changes: object) -> Path:
    incoming = folder.begin(step)
    (incoming / "adapter" / "weights").write_bytes(bytes([step % 256]) * 9)
    state = CheckpointState(
        step=step,
        identity=IDENTITY,
        environment={},
        token_budget=64,
        seen_tokens=step * 10,
        trained_tokens=step,
        train_loss=1.5,
        train_token_accuracy=0.5,
        evaluation=None,
    )
    return folder.commit(incoming, state.model_copy(update=changes), {"exp_avg.a": torch.full((2,), float(step))})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_write(CheckpointFolder(tmp_path), 7))
    assert checkpoint.state.step == 7
    assert checkpoint.optimizer_tensors()["exp_avg.a"].tolist() == [7.0, 7.0]
    assert (checkpoint.adapter_folder / "weights").read_bytes() == bytes([7]) * 9


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (8, 9, 10, 1_000_000):
        _write(folder, step)
    assert [path.name for path in folder.list_newest_first()] == ["step-1000000", "step-000010"]


def test_an_unfinished_one_is_no_checkpoint_and_goes_at_the_next_start(tmp_path: Path) -> None:
    unfinished = CheckpointFolder(tmp_path).begin(3)
    assert CheckpointFolder(tmp_path).list_newest_first() == []
    assert not unfinished.exists()


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    _write(folder, 3)
    assert read_checkpoint(_write(folder, 3, train_loss=0.25)).state.train_loss == 0.25


class TestDamage:
    @pytest.mark.parametrize("name", ["adapter/weights", OPTIMIZER, STATE])
    def test_a_changed_byte_is_found(self, tmp_path: Path, name: str) -> None:
        folder = _write(CheckpointFolder(tmp_path), 3)
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointInvalid, match=name):
            read_checkpoint(folder)

    @pytest.mark.parametrize("name", ["adapter/weights", OPTIMIZER, STATE, MANIFEST])
    def test_a_missing_file_is_found(self, tmp_path: Path, name: str) -> None:
        folder = _write(CheckpointFolder(tmp_path), 3)
        (folder / name).unlink()
        with pytest.raises(CheckpointInvalid):
            read_checkpoint(folder)

    def test_a_torn_manifest_is_found(self, tmp_path: Path) -> None:
        folder = _write(CheckpointFolder(tmp_path), 3)
        (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:40])
        with pytest.raises(CheckpointInvalid):
            read_checkpoint(folder)


class TestFindResumable:
    def test_gives_the_newest(self, tmp_path: Path) -> None:
        folder = CheckpointFolder(tmp_path)
        _write(folder, 3)
        _write(folder, 6)
        found = find_resumable(folder.list_newest_first(), IDENTITY, RecordingReporter())
        assert found is not None
        assert found.state.step == 6

    def test_passes_a_damaged_one_over_and_says_so(self, tmp_path: Path) -> None:
        folder = CheckpointFolder(tmp_path)
        _write(folder, 3)
        (_write(folder, 6) / OPTIMIZER).write_bytes(b"")
        reporter = RecordingReporter()
        found = find_resumable(folder.list_newest_first(), IDENTITY, reporter)
        assert found is not None
        assert found.state.step == 3
        (said,) = reporter.of(Note)
        assert said.level == "warn"
        assert "step-000006" in said.message

    def test_gives_none_when_there_is_none(self, tmp_path: Path) -> None:
        assert find_resumable([tmp_path / "step-000001"], IDENTITY, RecordingReporter()) is None

    def test_refuses_one_of_another_run(self, tmp_path: Path) -> None:
        folder = CheckpointFolder(tmp_path)
        _write(folder, 3, identity=IDENTITY | {"data set": "other"})
        with pytest.raises(CheckpointInvalid, match="another data set"):
            find_resumable(folder.list_newest_first(), IDENTITY, RecordingReporter())
