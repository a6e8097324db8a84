"""Where the trainer reports: messages onto the worker's pipe. What they mean is ``worker.trainer_process.messages``."""

import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from core.jobs.events import EventLevel
from worker.trainer_process.messages import Failed, KeepAlive, Message, Note, format_line
from worker.trainer_process.run_folder import EXIT_AGAIN

logger = logging.getLogger(__name__)

ALIVE_INTERVAL_S = 3.0


class Reporter(Protocol):
    """Where the trainer's messages go."""

    def send(self, message: Message) -> None:
        """Hand a message over; never raises into the training loop."""
        ...


def note(reporter: Reporter, level: EventLevel, message: str, **data: float | int | str | list[int]) -> None:
    """Send a `Note`."""
    reporter.send(Note(level=level, message=message, data=data or None))


class FailureReporter:
    """The reporter of a rank that does not lead: it sends why it failed, and nothing else."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def send(self, message: Message) -> None:
        if isinstance(message, Failed):
            self._reporter.send(message)


class PipeReporter:
    """Writes messages to a file descriptor.

    A broken pipe means the worker died: its job will be given to another, so the process ends at
    once. Checkpoints are whole or absent at any moment, so nothing needs tidying first.
    """

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._sent_s = clock()

    def send(self, message: Message, run: int = 0) -> None:
        self._sent_s = self._clock()
        line = memoryview(format_line(message, run))
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            logger.error("the worker's pipe is gone (%s); ending", error)
            os._exit(EXIT_AGAIN)

    def of_run(self, run: int) -> "RunReporter":
        """Give the reporter of one of the trainer's runs."""
        return RunReporter(self, run)

    def keep_alive(self) -> None:
        """Send `KeepAlive` unless something was sent within the last seconds.

        Called by the work itself, between micro-batches: a thread would go on sending it while the work hangs.
        """
        if self._clock() - self._sent_s >= ALIVE_INTERVAL_S:
            self.send(KeepAlive())


class RunReporter:
    """Writes the messages of one of several runs, by its place."""

    def __init__(self, pipe: PipeReporter, run: int) -> None:
        self._pipe, self._run = pipe, run

    def send(self, message: Message) -> None:
        self._pipe.send(message, self._run)
