"""Trainer processes that get SIGKILL at random moments and are started again until they finish: the same bits.

A kill falls anywhere: into the imports, into loading, an evaluation, a step, or the writing of a checkpoint.
``test_kill_points`` does the like in one process, in seconds.
"""

import time
from itertools import islice
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import pytest

from tests.worker.training.faults.test_kill_points import JOBS, assert_same_log, log_of, result_of
from tests.worker.training.run_folders import write_run
from tests.worker.training.test_main import started
from worker.trainer_process.messages import Message, Resumed, parse
from worker.trainer_process.run_folder import EXIT_DONE

# Checkpoints every few steps instead of every minute, so that a run of seconds is resumed in its midst.
TRAINER = (
    "-c",
    "import sys; from worker.training import __main__, loop; loop.CHECKPOINT_INTERVAL_S = 0.1; "
    "sys.exit(__main__.main())",
)
EPOCHS = 30  # 150 steps
KILLS = 20
EARLY_KILLS = 0.2  # share of the kills that may come before the first message
MESSAGES_LET_THROUGH = 40  # at most, before any other kill
WAIT_S = 0.05  # at most, after the last of them: some steps


def _start(folder: Path, rng: Random | None, start_s: float) -> tuple[int, list[Message]]:
    """Run a trainer until it is killed at a random moment, or ends before; give its status too."""
    with started(folder, TRAINER) as (process, pipe):
        lines: list[bytes] = []
        if rng is not None and rng.random() < EARLY_KILLS:
            time.sleep(rng.uniform(0, start_s))
            process.send_signal(SIGKILL)
        elif rng is not None:
            lines += islice(pipe, rng.randrange(MESSAGES_LET_THROUGH))
            time.sleep(rng.uniform(0, WAIT_S))
            process.send_signal(SIGKILL)
        lines += pipe
        # a line without an end was cut by the kill
        return process.wait(), [parse(line).message for line in lines if line.endswith(b"\n")]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_killed_at_twenty_random_moments_runs_equal_the_undisturbed_one_to_the_bit(
    tmp_path: Path, tiny_phi: Path, job: dict[str, Any]
) -> None:
    whole = write_run(tmp_path / "whole", tiny_phi, n_epochs=EPOCHS, **job)
    began_s = time.monotonic()
    status, messages = _start(whole, None, 0.0)
    duration_s = time.monotonic() - began_s
    assert status == EXIT_DONE
    expected, expected_log = result_of(whole), log_of(messages)
    rng, kills, resumed = Random(0), 0, 0
    while kills < KILLS:
        folder = write_run(tmp_path / f"killed-{kills}", tiny_phi, n_epochs=EPOCHS, **job)
        messages, status = [], -SIGKILL
        while status == -SIGKILL:
            status, said = _start(folder, rng if kills < KILLS else None, duration_s)
            messages += said
            kills += status == -SIGKILL
        assert status == EXIT_DONE
        resumed += sum(isinstance(message, Resumed) for message in messages)
        assert_same_log(log_of(messages), expected_log)
        assert result_of(folder) == expected
    assert resumed >= KILLS // 4  # the others were killed before their first step, or finished
