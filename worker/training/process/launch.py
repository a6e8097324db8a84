"""Starts one trainer per GPU and makes them look like one: ``python -m worker.training.process.launch``.

Torch-free. Tells each its rank in torchrun's variables; unlike torchrun it lets the events' pipe and the exit codes
through. What the trainers then agree on is ``worker.training.process.ranks``.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from core.process.bound import bound
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_PEER_LOST

TRAINER: Final = (sys.executable, "-m", "worker.training")
GRACE_S: Final = 5.0  # for the others to end by themselves once one has, such as to say why
_POLL_S: Final = 0.05
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass
class RankProcess:
    """One rank. The messages of one that does not lead are held back, until it is known whose must be forwarded."""

    process: subprocess.Popen[bytes]
    held_back: IO[bytes] | None
    killed: bool = False

    @property
    def code(self) -> int | None:
        """Its own exit status, negative for a signal; None while it runs, and when it had to be killed."""
        code = self.process.poll()
        return None if self.killed else code

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        if self.is_running:
            self.killed = True
            self.process.kill()


def main() -> int:
    """Run the trainers to their end; give the exit code that stands for all."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.training.process.launch", description="Train on several GPUs."
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN_DIR")
    parser.add_argument("--ranks", type=int, required=True, help="number of trainers, one per GPU")
    parser.add_argument("--events-fd", type=int, default=1, help="file descriptor for messages (default: stdout)")
    arguments = parser.parse_args()
    signals: list[int] = []
    for number in _STOPS:
        signal.signal(number, lambda number, _: signals.append(number))
    ranks = _start(arguments.run_folder, arguments.ranks, arguments.events_fd)
    _wait(ranks, signals)
    codes = [rank.code for rank in ranks]
    code = choose_code(codes)
    if code == EXIT_FAILED != codes[0]:
        _forward(ranks[codes.index(EXIT_FAILED)], arguments.events_fd)
    if code < 0:  # end as it did
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def choose_code(codes: Sequence[int | None]) -> int:
    """Give the exit code that says most of how the ranks ended; None: it was killed, because of another one."""
    if codes[0] == EXIT_DONE:  # it does all that is left after the last step
        return EXIT_DONE
    failures = [code for code in codes if code not in (None, EXIT_DONE, EXIT_AGAIN, EXIT_PEER_LOST)]
    if EXIT_FAILED in failures:
        return EXIT_FAILED
    if failures and failures[0] is not None:
        return failures[0]
    return EXIT_AGAIN if EXIT_AGAIN in codes else EXIT_PEER_LOST


def _start(run_folder: Path, size: int, events_fd: int) -> list[RankProcess]:
    # The first rank gets the socket itself, so that nobody else can take the port, nor reach it from outside.
    with socket.create_server(("127.0.0.1", 0)) as store:
        shared = {
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // size)),
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.getsockname()[1]),
            "WORLD_SIZE": str(size),
        }
        return [_start_rank(run_folder, rank, shared, events_fd, store.fileno()) for rank in range(size)]


def _start_rank(run_folder: Path, rank: int, shared: dict[str, str], events_fd: int, store_fd: int) -> RankProcess:
    held_back = tempfile.TemporaryFile() if rank else None  # noqa: SIM115 - it lives as long as the rank
    messages_fd = held_back.fileno() if held_back else events_fd
    listening = () if rank else ("--store-fd", str(store_fd))
    command = [*TRAINER, str(run_folder), "--events-fd", str(messages_fd), *listening]
    process = subprocess.Popen(
        bound(command),
        env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdin=subprocess.DEVNULL,
        pass_fds=(messages_fd,) if rank else (messages_fd, store_fd),
    )
    return RankProcess(process, held_back)


def _wait(ranks: Sequence[RankProcess], signals: Sequence[int]) -> None:
    """Return when all have ended. A signal to this process goes to all; who cannot go on alone is killed in the end."""
    passed_on, kill_s = False, float("inf")
    while running := [rank for rank in ranks if rank.is_running]:
        if signals and not passed_on:
            passed_on = True
            for rank in running:
                rank.process.terminate()
        if kill_s == float("inf") and _cannot_go_on(ranks):
            kill_s = time.monotonic() + GRACE_S
        if time.monotonic() >= kill_s:
            for rank in running:
                rank.kill()
        time.sleep(_POLL_S)


def _cannot_go_on(ranks: Sequence[RankProcess]) -> bool:
    leading, *others = (rank.code for rank in ranks)
    # One that was told to stop ends before the leading one, which writes the checkpoint.
    return leading is not None or any(code not in (None, EXIT_DONE, EXIT_AGAIN) for code in others)


def _forward(rank: RankProcess, events_fd: int) -> None:
    assert rank.held_back is not None
    rank.held_back.seek(0)
    with os.fdopen(events_fd, "wb", closefd=False) as pipe:
        shutil.copyfileobj(rank.held_back, pipe)


if __name__ == "__main__":
    sys.exit(main())
