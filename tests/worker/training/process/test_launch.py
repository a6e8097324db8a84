"""Ranks are started, told their places, stopped together, and stood for by one exit code and one pipe."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tests.worker.training.faults.test_kill_points import result_of
from tests.worker.training.process.ranked import checkpoint_each_step, run_ranks
from tests.worker.training.run_folders import write_run
from tests.worker.training.test_main import started
from worker.trainer_process.messages import Failed, Finished, Message, Note, Resumed, StepDone, parse
from worker.trainer_process.process import COMMAND, LAUNCHER, TrainerProcess, command_for
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_PEER_LOST, LOG
from worker.training.process.launch import choose_code

KILLED = -signal.SIGKILL
PROGRAM = (
    "import sys; from worker.training.process import launch; launch.GRACE_S = {grace_s}; "
    "launch.TRAINER = (sys.executable, '-m', 'tests.worker.training.process.fake_rank'); sys.exit(launch.main())"
)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([EXIT_DONE, EXIT_DONE], EXIT_DONE),
        ([EXIT_DONE, KILLED], EXIT_DONE),
        ([EXIT_AGAIN, EXIT_AGAIN], EXIT_AGAIN),
        ([EXIT_PEER_LOST, EXIT_AGAIN], EXIT_AGAIN),
        ([EXIT_PEER_LOST, KILLED], KILLED),
        ([None, KILLED], KILLED),
        ([KILLED, EXIT_PEER_LOST], KILLED),
        ([EXIT_PEER_LOST, EXIT_FAILED], EXIT_FAILED),
        ([-signal.SIGABRT, EXIT_FAILED], EXIT_FAILED),
        ([EXIT_PEER_LOST, None], EXIT_PEER_LOST),
        ([None, EXIT_PEER_LOST, 3], 3),
    ],
)
def test_the_code_that_says_most_stands_for_all(codes: Sequence[int | None], expected: int) -> None:
    assert choose_code(codes) == expected


def test_with_one_gpu_or_none_there_is_no_launcher() -> None:
    assert (command_for(0), command_for(1)) == (COMMAND, COMMAND)
    assert command_for(4) == (*LAUNCHER, "--ranks", "4")


def _launch(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *ranks: int | str,
    number: signal.Signals | None = None,
    grace_s: float = 0.5,
) -> tuple[int, list[Message]]:
    """Launch fake ranks, and send the launcher a signal when the first one is there; give its status too.

    Args:
        grace_s: for the others once one has ended. Where none hangs it may be long: on a busy machine a rank whose word
            is waited for may only begin then.
    """
    monkeypatch.setenv("FAKE_RANKS", json.dumps(ranks))
    with started(folder, ("-c", PROGRAM.format(grace_s=grace_s), "--ranks", str(len(ranks)))) as (process, pipe):
        said = [parse(pipe.readline()).message]
        if number is not None:
            _wait_for_ranks(folder, len(ranks))
            process.send_signal(number)
        said += [parse(line).message for line in pipe]
        return process.wait(), said


def _told(folder: Path) -> list[dict[str, str]]:
    """Give what each rank was told, by rank."""
    lines = [line for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    return sorted(map(json.loads, lines), key=lambda told: int(told["RANK"]))


def _wait_for_ranks(folder: Path, count: int) -> None:
    while len(_told(folder)) < count:
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TestFakeRanks:
    def test_each_is_told_its_place_and_the_first_gets_the_socket(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status, said = _launch(tmp_path, monkeypatch, 0, 0, 0)
        assert status == EXIT_DONE
        told = _told(tmp_path)
        assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"]) for one in told] == [
            (str(rank), str(rank), "3") for rank in range(3)
        ]
        address = f"127.0.0.1:{told[0]['MASTER_PORT']}"
        assert [one["store"] for one in told] == [address, "none", "none"]
        assert {f"{one['MASTER_ADDR']}:{one['MASTER_PORT']}" for one in told} == {address}
        assert [json.loads(note.message)["RANK"] for note in said if isinstance(note, Note)] == ["0"]

    def test_a_stop_reaches_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert _launch(tmp_path, monkeypatch, "trains", "trains", number=signal.SIGTERM)[0] == EXIT_AGAIN

    def test_one_that_is_killed_takes_the_others_with_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        status, said = _launch(tmp_path, monkeypatch, "hangs", "killed")
        assert (status, len(said)) == (KILLED, 1)
        assert not any(_is_alive(int(told["pid"])) for told in _told(tmp_path))

    def test_one_that_fails_alone_is_heard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        status, said = _launch(tmp_path, monkeypatch, EXIT_PEER_LOST, EXIT_PEER_LOST, "fails", grace_s=60)
        assert status == EXIT_FAILED
        assert [failed.message for failed in said if isinstance(failed, Failed)] == ["rank 2"]

    def test_where_all_fail_only_the_first_is_heard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        status, said = _launch(tmp_path, monkeypatch, "fails", "fails", grace_s=60)
        assert status == EXIT_FAILED
        assert [failed.message for failed in said if isinstance(failed, Failed)] == ["rank 0"]

    def test_none_outlives_its_launcher(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert _launch(tmp_path, monkeypatch, "hangs", "hangs", number=signal.SIGKILL)[0] == KILLED
        while any(_is_alive(int(told["pid"])) for told in _told(tmp_path)):
            time.sleep(0.01)


def _kill_second(launcher_pid: int) -> None:
    ranks = psutil.Process(launcher_pid).children()
    os.kill(next(one.pid for one in ranks if one.environ().get("RANK") == "1"), signal.SIGKILL)


def _tell_launcher(launcher_pid: int) -> None:
    os.kill(launcher_pid, signal.SIGTERM)


def _train(folder: Path, disturb: Callable[[int], None] | None = None) -> tuple[int | None, list[Message]]:
    """Train on two ranks as a worker does; what disturbs them comes when step 13 is reported."""
    said: list[Message] = []
    with TrainerProcess(folder, niceness=0, command=command_for(2)) as trainer:
        while trainer.exit_code is None:
            said += trainer.listen(0.1)
            if disturb and any(isinstance(one, StepDone) and one.step >= 13 for one in said):
                disturb(trainer.pid)
                disturb = None
        return trainer.exit_code, said + trainer.drain()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturb", "code", "last_words"),
    [(_kill_second, KILLED, "another rank cannot be reached"), (_tell_launcher, EXIT_AGAIN, "rank 1: told to stop")],
    ids=["one is killed", "all are told to stop"],
)
def test_real_ranks_go_on_to_the_same_bits(
    tmp_path: Path,
    tiny_phi: Path,
    monkeypatch: pytest.MonkeyPatch,
    disturb: Callable[[int], None],
    code: int,
    last_words: str,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole, folder = (write_run(tmp_path / name, tiny_phi, n_epochs=8) for name in ("whole", "disturbed"))
    assert run_ranks(whole, checkpoint_each_step).codes == [EXIT_DONE, EXIT_DONE]
    status, said = _train(folder, disturb)
    assert status == code
    assert not any(isinstance(message, Failed | Finished) for message in said)
    assert last_words in (folder / LOG).read_text()
    status, said = _train(folder)
    assert status == EXIT_DONE
    assert any(isinstance(message, Resumed) for message in said)
    assert result_of(folder) == result_of(whole)
