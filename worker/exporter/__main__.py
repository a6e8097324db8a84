"""The exporter's process: ``python -m worker.exporter RUN_DIR --events-fd N``.

Owns the exit code and the one place where every failure becomes a message. Killed at any moment it leaves nothing that
a later attempt reads: that begins again.
"""

import argparse
import logging
import os
import sys
import threading
import time
from pathlib import Path

from core.errors import HostUnfit, ServiceError
from core.jobs.events import EventLevel
from core.process.logs import EscapingFormatter
from core.process.privacy import keep_to_owner
from worker.exporter.export import make_export, set_up_torch
from worker.trainer_process.export_folder import read_run
from worker.trainer_process.host_faults import find_host_fault
from worker.trainer_process.messages import Failed, KeepAlive, Message, Note, PhaseStarted, format_line
from worker.trainer_process.run_folder import EXIT_DONE, EXIT_FAILED

_ALIVE_EVERY_S = 3.0

logger = logging.getLogger("loramill.exporter")


def main() -> int:
    """Make one export; give the exit code."""
    keep_to_owner()
    set_up_torch()
    arguments = _parse()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

    def send(message: Message) -> None:
        os.write(arguments.events_fd, format_line(message))  # shorter than a pipe's atomic write

    threading.Thread(target=_keep_alive, args=(arguments.events_fd,), daemon=True).start()

    def say(what: str) -> None:
        send(PhaseStarted(name=what))
        send(Note(level=EventLevel.INFO, message=f"{what[0].upper()}{what[1:]}"))

    try:
        make_export(read_run(arguments.run_folder), arguments.run_folder, say)
    except Exception as error:
        send(failure_of(error))
        return EXIT_FAILED
    return EXIT_DONE


def failure_of(error: Exception) -> Failed:
    """Give the message that an exception ends the export with, and log what the message cannot say."""
    host_fault = error if isinstance(error, HostUnfit) else find_host_fault(error, "make the export")
    if host_fault is not None:
        logger.exception("this machine cannot make the export now")
        return Failed(code=host_fault.code, message=str(host_fault), of_host=True)
    logger.exception("the export failed")
    if isinstance(error, ServiceError):
        return Failed(code=error.code, message=str(error))
    sentence = f"the exporter failed unexpectedly ({type(error).__name__}: {error}); its log has the traceback"
    return Failed(code="internal_error", message=sentence)


def _keep_alive(events_fd: int) -> None:
    """Say that the process lives; what it computes says nothing for minutes."""
    while True:
        time.sleep(_ALIVE_EVERY_S)
        os.write(events_fd, format_line(KeepAlive()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.exporter", description="Make one export.")
    parser.add_argument("run_folder", type=Path, metavar="RUN_DIR")
    parser.add_argument("--events-fd", type=int, default=1, help="file descriptor for messages (default: stdout)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
