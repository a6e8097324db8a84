"""Runs of several ranks: whole trainers that meet over gloo, forked from a process that has torch loaded already.

Only their starter is left out, which ``test_launch`` has. What shall happen to one of them, it does to itself.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals

import torch

from worker.trainer_process.messages import HeldOutAnswers, Message, parse
from worker.training import __main__ as trainer
from worker.training import loop
from worker.training import run as run_module
from worker.training.measure.generation_eval import GenerationEvaluator
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.process.stopping import CheckStop

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])

PATIENCE_S = 60.0  # for a run of seconds; one that waits for another for ever gets a signal instead of an exit code

Act = Callable[[int], None]
"""Called in each rank, with its number, before it is the trainer."""


@dataclass(frozen=True)
class Ended:
    """How the ranks of a run ended, and what each of them said."""

    codes: list[int | None]
    said: list[list[Message]]


def run_ranks(folder: Path, *acts: Act, size: int = 2) -> Ended:
    """Run the trainers of a run folder to their end."""
    with closing(socket.create_server(("127.0.0.1", 0))) as store:
        processes = [_FORKS.Process(target=_be_rank, args=(rank, size, store, folder, acts)) for rank in range(size)]
        for process in processes:
            process.start()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    said = [[parse(line).message for line in _events(folder, rank).read_bytes().splitlines()] for rank in range(size)]
    return Ended([process.exitcode for process in processes], said)


def _events(folder: Path, rank: int) -> Path:
    return folder / f"events-{rank}"


def _be_rank(rank: int, size: int, store: socket.socket, folder: Path, acts: Sequence[Act]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.getsockname()[1]),
        "WORLD_SIZE": str(size),
        "RANK": str(rank),
    }
    for act in acts:
        act(rank)
    with _events(folder, rank).open("wb") as events, (folder / f"log-{rank}").open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
        sys.argv = ["trainer", str(folder), "--events-fd", str(events.fileno())]
        if rank == 0:
            sys.argv += ["--store-fd", str(store.detach())]
        sys.exit(trainer.main())


class ForkedTrainer:
    """The trainer of some run folders; its log is where ``tests.worker.training.test_main.started`` puts it.

    Attributes:
        pipe: what it says.
    """

    def __init__(self, *folders: Path) -> None:
        reading, writing = multiprocessing.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_be_trainer, args=(folders, writing))
        self._process.start()
        writing.close()
        self.pipe = os.fdopen(os.dup(reading.fileno()), "rb")
        reading.close()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def wait(self) -> int:
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None, "it has not ended"
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _be_trainer(folders: Sequence[Path], events: Connection) -> None:
    torch.set_num_threads(1)
    with (folders[0] / "log").open("wb") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        sys.argv = ["trainer", *map(str, folders), "--events-fd", str(events.fileno())]
        sys.exit(trainer.main())


def token_budgets(*by_rank: int) -> Act:
    """Let each rank find memory for so many tokens of a micro-batch."""
    return partial(_token_budgets, by_rank)


def _token_budgets(by_rank: Sequence[int], rank: int) -> None:
    setattr(run_module, "choose_token_budget", lambda _: by_rank[rank])  # noqa: B010 - mypy takes it for a constant


def checkpoint_each_step(_: int) -> None:
    """Write a checkpoint after every step."""
    setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0)  # noqa: B010


def signal_after(step: int, victim: int, number: Signals) -> Act:
    """Let one rank get a signal when so many steps are taken."""
    return after_step(step, victim, partial(_signal, number))


def _signal(number: Signals, _: AdapterOptimizer) -> None:
    os.kill(os.getpid(), number)


def after_step(step: int, victim: int, deed: Callable[[AdapterOptimizer], None]) -> Act:
    """Let one rank do something when so many steps are taken."""
    return partial(_after_step, step, victim, deed)


def _after_step(step: int, victim: int, deed: Callable[[AdapterOptimizer], None], rank: int) -> None:
    if rank != victim:
        return
    take = AdapterOptimizer.step

    def take_and_do(self: AdapterOptimizer, steps_before: int) -> float:
        learning_rate = take(self, steps_before)
        if steps_before + 1 == step:
            deed(self)
        return learning_rate

    setattr(AdapterOptimizer, "step", take_and_do)  # noqa: B010


def signal_while_answering(number: Signals) -> Act:
    """Let the first rank get a signal as soon as it lets the model answer."""
    return partial(_signal_while_answering, number)


def _signal_while_answering(number: Signals, _: int) -> None:
    evaluate = GenerationEvaluator.evaluate

    def get_signal_and_evaluate(self: GenerationEvaluator, step: int, check_stop: CheckStop) -> HeldOutAnswers | None:
        os.kill(os.getpid(), number)
        return evaluate(self, step, check_stop)

    setattr(GenerationEvaluator, "evaluate", get_signal_and_evaluate)  # noqa: B010
