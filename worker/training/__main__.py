"""The trainer's process: ``python -m worker.training RUN_DIR… --events-fd N``.

Owns the exit code and the one place where every failure becomes a message; the work is ``worker.training.together``.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil

from core.errors import HostUnfit, HostUnsuited, ServiceError, TrainingError
from core.process.logs import EscapingFormatter
from core.process.privacy import keep_to_owner
from worker.trainer_process.host_faults import find_host_fault
from worker.trainer_process.messages import Failed, Interrupted
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_PEER_LOST, STOP
from worker.training.measure.stopwatch import Stopwatch
from worker.training.process.onednn import keep_few_kernels
from worker.training.process.ranks import PeerLost, Ranks
from worker.training.process.reporter import FailureReporter, PipeReporter, Reporter
from worker.training.process.stopping import Stopped, StopSignal
from worker.training.run import TrainerRun
from worker.training.together import run_together

logger = logging.getLogger("loramill.trainer")


def main() -> int:
    """Run the trainer; give its exit code."""
    keep_few_kernels()
    keep_to_owner()
    arguments = _parse()
    ranks = Ranks.from_environ(os.environ)
    _log_to_stderr(ranks)
    code = _train(arguments, ranks)
    if ranks.size > 1 and code != EXIT_DONE:
        # The ranks did not part in good order. What torch left running would abort the process as it is torn down.
        os._exit(code)
    return code


def _train(arguments: argparse.Namespace, ranks: Ranks) -> int:
    stop = StopSignal()
    stop.listen()
    pipe = PipeReporter(arguments.events_fd)
    folders: list[Path] = [folder.absolute() for folder in arguments.run_folder]
    reporters: list[Reporter] = [
        pipe.of_run(place) if ranks.leads else FailureReporter(pipe) for place in range(len(folders))
    ]

    def check_stop(folder: Path) -> None:
        if ranks.leads:
            pipe.keep_alive()
        stop.check()
        if (folder / STOP).exists():
            raise Stopped

    def report_end(place: int, error: Exception | None) -> None:
        if isinstance(error, Stopped):
            logger.info("%s was told to stop; it ends", folders[place].name)
            reporters[place].send(Interrupted())
        elif isinstance(error, PeerLost):
            logger.error("%s", error)
        elif error is not None:
            reporters[place].send(failure_of(error))

    began_s_ago = time.time() - psutil.Process().create_time()
    runs = [
        TrainerRun(folder, reporter, partial(check_stop, folder), Stopwatch(began_s_ago=began_s_ago))
        for folder, reporter in zip(folders, reporters, strict=True)
    ]
    try:
        ranks.join(os.environ, arguments.store_fd)
        endings = run_together(runs, ranks, report_end)
        if not any(endings):
            ranks.leave()
    except Exception as error:
        endings = [error] * len(runs)
        for place in range(len(runs)):
            report_end(place, error)
    return exit_code_of(endings)


def exit_code_of(endings: Sequence[Exception | None]) -> int:
    """Give the exit code that stands for how all runs ended; None: done."""
    errors = [error for error in endings if error is not None]
    if any(isinstance(error, PeerLost) for error in errors):
        return EXIT_PEER_LOST
    if any(not isinstance(error, Stopped) for error in errors):
        return EXIT_FAILED
    return EXIT_AGAIN if errors else EXIT_DONE


def failure_of(error: Exception) -> Failed:
    """Give the message that an exception ends the run with, and log what the message cannot say."""
    host_fault = error if isinstance(error, HostUnfit) else find_host_fault(error, "go on with the run")
    if host_fault is not None:
        logger.exception("this machine cannot run the job now")
        unsuited = isinstance(host_fault, HostUnsuited)
        return Failed(code=host_fault.code, message=str(host_fault), of_host=True, unsuited=unsuited)
    if isinstance(error, TrainingError):
        logger.error("%s: %s", error.code, error)
        return Failed(code=error.code, message=str(error), lines=error.lines)
    logger.exception("the run failed")
    if isinstance(error, ServiceError):
        return Failed(code=error.code, message=str(error))
    sentence = f"the trainer failed unexpectedly ({type(error).__name__}: {error}); its log has the traceback"
    return Failed(code="internal_error", message=sentence)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.training", description="Train run folders together.")
    parser.add_argument("run_folder", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--events-fd", type=int, default=1, help="file descriptor for messages (default: stdout)")
    parser.add_argument("--store-fd", type=int, help="listening socket where the first of several ranks is found")
    return parser.parse_args()


def _log_to_stderr(ranks: Ranks) -> None:
    which = "" if ranks.size == 1 else f"rank {ranks.rank}: "
    layout = f"%(asctime)s %(levelname)s %(name)s {which}%(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter(layout))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
