import shutil
from pathlib import Path

import pytest
import torch

from core.errors import CheckpointInvalid
from tests.worker.training.run_folders import RecordingReporter
from worker.trainer_process.messages import Evaluated, Note
from worker.training.measure.early_stopping import Standing
from worker.training.output.checkpoint import (
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
        standing=Standing(),
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


def test_what_was_just_written_is_kept_beside_later_ones_that_did_not_verify(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (8, 9, 5):
        _write(folder, step)
    assert [path.name for path in folder.list_newest_first()] == ["step-000009", "step-000005"]


class TestBestAdapter:
    def _standing(self, step: int) -> Standing:
        return Standing().after(Evaluated(step=step, loss=1.0, token_accuracy=0.5, tokens=9, examples=3))

    def test_it_goes_from_checkpoint_to_checkpoint(self, tmp_path: Path) -> None:
        folder = CheckpointFolder(tmp_path, keeps_best=True)
        _write(folder, 1)
        assert folder.best_adapter is None
        for step in (2, 3, 4, 5):
            written = _write(folder, step, standing=self._standing(2))
            assert folder.best_adapter == written / ("adapter" if step == 2 else "best")
        assert (tmp_path / "step-000005" / "best" / "weights").read_bytes() == bytes([2]) * 9
        assert "best/weights" in (tmp_path / "step-000005" / MANIFEST).read_text()

    def test_a_checkpoint_that_is_written_again_keeps_it(self, tmp_path: Path) -> None:
        """Its only other place is the folder that is replaced."""
        folder = CheckpointFolder(tmp_path, keeps_best=True)
        _write(folder, 2, standing=self._standing(2))
        checkpoint = read_checkpoint(_write(folder, 3, standing=self._standing(2)))
        shutil.rmtree(tmp_path / "step-000002")
        again = CheckpointFolder(tmp_path, keeps_best=True)
        again.go_on_from(checkpoint)
        _write(again, 3, standing=self._standing(2))
        assert (tmp_path / "step-000003" / "best" / "weights").read_bytes() == bytes([2]) * 9

    def test_a_changed_byte_of_it_is_found(self, tmp_path: Path) -> None:
        folder = CheckpointFolder(tmp_path, keeps_best=True)
        _write(folder, 2, standing=self._standing(2))
        written = _write(folder, 3, standing=self._standing(2))
        (written / "best" / "weights").write_bytes(b"torn")
        with pytest.raises(CheckpointInvalid, match="best/weights"):
            read_checkpoint(written)


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
