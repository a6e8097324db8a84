"""A disk that has no room left in mid-run: the trainer ends with a reason, and what it leaves behind is whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scenario import Impossible, fill, small_disk
from tests.worker.training.faults.test_killed_processes import TRAINER
from tests.worker.training.run_folders import write_run
from tests.worker.training.test_main import started
from worker.trainer_process.messages import CheckpointWritten, Failed, Finished, Message, Resumed, parse
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS, EXIT_DONE, EXIT_FAILED
from worker.training.output.checkpoint import INCOMING, read_checkpoint

EPOCHS = 12
MEGABYTES = 4.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", MEGABYTES) as disk:
            yield disk
    except Impossible as reason:
        pytest.skip(str(reason))


def _train(folder: Path, *, fill_after_checkpoint: bool, leaving_bytes: int = 0) -> tuple[int, list[Message]]:
    messages: list[Message] = []
    with started(folder, TRAINER) as (process, pipe):
        for line in pipe:
            messages.append(parse(line).message)
            if fill_after_checkpoint and isinstance(messages[-1], CheckpointWritten):
                fill_after_checkpoint = False
                fill(folder, leaving_bytes)
        return process.wait(), messages


# of a checkpoint: none of its bytes, its adapter but not its moments, nearly all of it
@pytest.mark.slow
@pytest.mark.parametrize("leaving_bytes", [0, 8 * 4096, 24 * 4096])
def test_a_full_disk_is_told_as_the_hosts_and_the_next_run_goes_on_from_a_whole_checkpoint(
    disk: Path, tiny_phi: Path, leaving_bytes: int
) -> None:
    folder = write_run(disk / "run", tiny_phi, n_epochs=EPOCHS)
    exit_code, messages = _train(folder, fill_after_checkpoint=True, leaving_bytes=leaving_bytes)

    failed = messages[-1]
    assert isinstance(failed, Failed), messages[-1]
    assert exit_code == EXIT_FAILED
    assert failed.of_host
    assert "no space" in failed.message
    written = [message.step for message in messages if isinstance(message, CheckpointWritten)]
    whole = [path for path in (folder / CHECKPOINTS).iterdir() if not path.name.endswith(INCOMING)]
    assert written
    assert written[-1] in {read_checkpoint(path).state.step for path in whole}  # each of them verifies

    (folder / "ballast").unlink()
    exit_code, messages = _train(folder, fill_after_checkpoint=False)
    assert exit_code == EXIT_DONE
    assert next(message.step for message in messages if isinstance(message, Resumed)) == written[-1]
    assert isinstance(messages[-1], Finished)
    assert (folder / ADAPTER / "manifest.json").exists()
