"""The trainer as a process: signals, exit codes and the pipe.

One is started as the worker does it; the others are forked from a process that has torch loaded already.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import pytest

from core.errors import HostUnfit, LossNotFinite, QuantizationUnavailable
from core.serving.adapter_format import WEIGHTS
from tests.worker.training.process.ranked import ForkedTrainer
from tests.worker.training.run_folders import train, write_run
from worker.trainer_process.messages import Failed, Finished, Interrupted, Message, Resumed, StepDone, parse
from worker.trainer_process.run_folder import (
    ADAPTER,
    EXIT_AGAIN,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PEER_LOST,
    STOP,
    TRAINING_FILE,
)
from worker.training.__main__ import exit_code_of, failure_of
from worker.training.process.ranks import PeerLost
from worker.training.process.stopping import Stopped

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 8  # long enough to be still running when a signal arrives


class Process(Protocol):
    """What both ways to start one give."""

    def send_signal(self, number: int, /) -> None: ...
    def wait(self) -> int: ...


@contextmanager
def started(
    folder: Path, program: Sequence[str] = ("-m", "worker.training")
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the trainer as the worker does; gives the process and the reading end of its pipe."""
    reading, writing = os.pipe()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program, str(folder), "--events-fd", str(writing)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as the tests themselves, so that sums agree
            stdout=log,
            stderr=log,
            pass_fds=[writing],
        )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        try:
            yield process, pipe
        finally:
            process.kill()
            process.wait()


@contextmanager
def forked(*folders: Path) -> Iterator[tuple[ForkedTrainer, IO[bytes]]]:
    """Start the trainer without the seconds of its imports; gives the process and the reading end of its pipe."""
    process = ForkedTrainer(*folders)
    with process.pipe as pipe:
        try:
            yield process, pipe
        finally:
            process.kill()


def _listen(process: Process, pipe: IO[bytes], step: int, number: signal.Signals) -> tuple[int, list[Message]]:
    """Hear all that a trainer says, and send it a signal at a step."""
    messages: list[Message] = []
    for line in pipe:
        messages.append(parse(line).message)
        if isinstance(messages[-1], StepDone) and messages[-1].step == step:
            process.send_signal(number)
    return process.wait(), messages


def _run(folder: Path) -> tuple[int, list[Message]]:
    with forked(folder) as (process, pipe):
        messages = [parse(line).message for line in pipe]
        return process.wait(), messages


@pytest.mark.slow
def test_signals_end_it_and_each_next_start_goes_on_to_the_same_bits(tmp_path: Path, tiny_phi: Path) -> None:
    whole = write_run(tmp_path / "whole", tiny_phi, n_epochs=EPOCHS)
    train(whole)
    folder = write_run(tmp_path / "run", tiny_phi, n_epochs=EPOCHS)
    with started(folder) as trainer:
        exit_code, before = _listen(*trainer, 13, signal.SIGTERM)
    assert exit_code == EXIT_AGAIN
    with forked(folder) as trainer:
        exit_code, between = _listen(*trainer, 23, signal.SIGKILL)
    assert exit_code == -signal.SIGKILL
    assert not any(isinstance(message, Finished | Failed) for message in [*before, *between])
    exit_code, after = _run(folder)
    assert exit_code == EXIT_DONE
    assert isinstance(after[-1], Finished)
    second, third = (next(m for m in messages if isinstance(m, Resumed)) for messages in (between, after))
    assert second.step >= 13  # it was told to stop, and kept its last step
    assert third.step >= 20
    assert (folder / ADAPTER / WEIGHTS).read_bytes() == (whole / ADAPTER / WEIGHTS).read_bytes()


def test_a_failure_has_a_code_and_exits_with_one(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, max_length=5)
    exit_code, messages = _run(folder)
    assert exit_code == EXIT_FAILED
    assert isinstance(messages[-1], Failed)
    assert messages[-1].code == "all_examples_dropped"
    assert messages[-1].lines[:3] == (1, 2, 3)


def test_an_unexpected_failure_is_reported_and_its_traceback_logged(tmp_path: Path) -> None:
    exit_code, messages = _run(tmp_path)  # holds no spec.json
    assert exit_code == EXIT_FAILED
    assert isinstance(messages[-1], Failed)
    assert messages[-1].code == "internal_error"
    assert "Traceback" in (tmp_path / "log").read_text()


def test_it_ends_when_nobody_reads_any_more(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, n_epochs=1000)
    with forked(folder) as (process, pipe):
        pipe.readline()
        pipe.close()
        assert process.wait() == EXIT_AGAIN
    assert not (folder / ADAPTER).exists()


def _hear_together(folders: Sequence[Path], stops: dict[int, int] | None = None) -> tuple[int, list[list[Message]]]:
    """Train folders together, and stop some of them after a step; give the exit code and what was said of each."""
    said: list[list[Message]] = [[] for _ in folders]
    with forked(*folders) as (process, pipe):
        for line in pipe:
            one = parse(line)
            said[one.run].append(one.message)
            if isinstance(one.message, StepDone) and one.message.step == (stops or {}).get(one.run):
                (folders[one.run] / STOP).touch()
        return process.wait(), said


def test_each_of_several_runs_says_how_it_ended(tmp_path: Path, tiny_phi: Path) -> None:
    whole, broken, stopped = (
        write_run(tmp_path / name, tiny_phi, n_epochs=4) for name in ("whole", "broken", "stopped")
    )
    (broken / TRAINING_FILE).write_text("no JSON\n")
    exit_code, said = _hear_together([whole, broken, stopped], stops={2: 3})
    assert exit_code == EXIT_FAILED
    assert [type(messages[-1]) for messages in said] == [Finished, Failed, Interrupted]
    assert (whole / ADAPTER / WEIGHTS).is_file()
    steps = [message.step for message in said[2] if isinstance(message, StepDone)]
    assert steps[-1] in (3, 4)  # the one under way when it was told may be its last


def test_a_signal_stops_all_of_them(tmp_path: Path, tiny_phi: Path) -> None:
    folders = [write_run(tmp_path / str(n), tiny_phi, n_epochs=1000, seed=n) for n in range(2)]
    said: list[list[Message]] = [[], []]
    with forked(*folders) as (process, pipe):
        for line in pipe:
            one = parse(line)
            said[one.run].append(one.message)
            if isinstance(one.message, StepDone) and one.message.step == 2:
                process.send_signal(signal.SIGTERM)
        assert process.wait() == EXIT_AGAIN
    assert [messages[-1] for messages in said] == [Interrupted(), Interrupted()]


@pytest.mark.parametrize(
    ("endings", "code"),
    [
        ([None, None], EXIT_DONE),
        ([None, Stopped()], EXIT_AGAIN),
        ([Stopped(), LossNotFinite("nan")], EXIT_FAILED),
        ([PeerLost()], EXIT_PEER_LOST),
    ],
)
def test_one_exit_code_stands_for_all(endings: list[Exception | None], code: int) -> None:
    assert exit_code_of(endings) == code


@pytest.mark.parametrize(
    ("error", "of_host", "unsuited"),
    [
        (HostUnfit("its GPU cannot be used"), True, False),
        (QuantizationUnavailable("it has no GPU"), True, True),
        (LossNotFinite("the loss is nan"), False, False),
    ],
)
def test_a_failure_says_whose_it_is(error: Exception, of_host: bool, unsuited: bool) -> None:
    failed = failure_of(error)
    assert (failed.of_host, failed.unsuited, failed.message) == (of_host, unsuited, str(error))
