"""One trainer process for several runs, each of which is watched as if it had a trainer of its own.

The process lives while one of its runs goes on. Knows neither database nor jobs.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from worker.trainer_process.messages import Failed, Finished, Interrupted, KeepAlive, Message, Said
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, STOP
from worker.trainer_process.stop import StopFlag

_TICK_S: Final = 0.2
_ENDS_WITHIN_S: Final = 10.0  # of a process all of whose runs have ended
_WAITS_S: Final = 0.5  # between two signs of who waits for the others
_CODES: Final[dict[type[Message], int]] = {Finished: EXIT_DONE, Failed: EXIT_FAILED, Interrupted: EXIT_AGAIN}

StartTrainer = Callable[[Sequence[Path]], TrainerProcess]


class SharedTrainer:
    """Gathers runs, and starts one process for all that came. What `run` does not do, the runs' own threads call.

    Args:
        runs: that are expected, each of which takes its `seat` or will `stay_away`.
    """

    def __init__(self, runs: int, start: StartTrainer) -> None:
        self.changed = threading.Condition()
        self._expected = runs
        self._start = start
        self._seats: list[TrainerSeat] = []
        self._process: TrainerProcess | None = None
        self._refused: Exception | None = None

    def seat(self, folder: Path, sign: Callable[[], None]) -> "TrainerSeat":
        """Wait until the trainer runs, and give this run's part of it.

        Args:
            sign: called now and then while this waits for the others.

        Raises:
            OSError: the process could not be started.
        """
        seat = TrainerSeat(self, folder)
        with self.changed:
            self._seats.append(seat)
            self._expect_one_less()
            while self._process is None and self._refused is None:
                self.changed.wait(_WAITS_S)
                sign()
        if self._refused is not None:
            raise self._refused
        return seat

    def stay_away(self) -> None:
        """Say that a run which is expected will not come; of one that has its seat this means nothing."""
        with self.changed:
            self._expect_one_less()

    def run(self) -> None:
        """Start the process when all runs have come or stay away, and see it to its end.

        The process dies with the thread that calls this.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._expected <= 0)
            if not self._seats:
                return
            try:
                self._process = self._start([seat.folder for seat in self._seats])
            except Exception as error:
                self._refused = error
            self.changed.notify_all()
        if self._process is None:
            return
        with self._process as process:
            try:
                self._attend(process)
            finally:
                process.kill()
                self._end_all(process.exit_code)

    def last_lines(self, count: int) -> list[str]:
        """Give the end of what the process wrote to stdout and stderr."""
        return [] if self._process is None else self._process.last_lines(count)

    def _expect_one_less(self) -> None:
        self._expected -= 1
        self.changed.notify_all()

    def _attend(self, process: TrainerProcess) -> None:
        ended_s: float | None = None
        while process.exit_code is None:
            self._hand_out(process.listen_to_all(_TICK_S))
            with self.changed:
                if any(seat.exit_code is None for seat in self._seats):
                    continue
                ended_s = ended_s or time.monotonic()
                is_given_up = any(seat.is_given_up for seat in self._seats)
            if is_given_up or time.monotonic() - ended_s >= _ENDS_WITHIN_S:
                process.kill()
        self._hand_out(process.drain_all())

    def _end_all(self, code: int | None) -> None:
        with self.changed:
            for seat in self._seats:
                seat.end(code)
            self.changed.notify_all()

    def _hand_out(self, said: Sequence[Said]) -> None:
        """Give each run what was said of it. Whatever is said, all runs are alive."""
        with self.changed:
            for number, seat in enumerate(self._seats):
                own = [one.message for one in said if one.run == number]
                seat.hear(own or [KeepAlive()] * bool(said))
            self.changed.notify_all()


class TrainerSeat:
    """One run of a shared trainer; what a `TrainerProcess` is to a run that has its own."""

    def __init__(self, trainer: SharedTrainer, folder: Path) -> None:
        self.folder = folder
        self.is_given_up = False
        self._trainer = trainer
        self._messages: list[Message] = []
        self._exit_code: int | None = None

    @property
    def exit_code(self) -> int | None:
        """As the process's would be, had it this run alone; None while the run goes on."""
        return self._exit_code

    def listen(self, timeout_s: float, stop: StopFlag | None = None) -> list[Message]:
        """Wait until something is said of the run, it ends, or ``stop`` is requested; give what was said."""
        with self._trainer.changed:
            self._trainer.changed.wait_for(
                lambda: self._messages or self._exit_code is not None or (stop is not None and stop.requested),
                timeout_s,
            )
            return self.drain()

    def drain(self) -> list[Message]:
        """Give what was said and not yet heard."""
        with self._trainer.changed:
            messages, self._messages = self._messages, []
            return messages

    def ask_to_stop(self) -> None:
        """Let the run write a checkpoint and end; the others go on."""
        (self.folder / STOP).touch()

    def kill(self) -> None:
        """Count the run as ended; the process is killed when none goes on. Any thread may call this."""
        self.ask_to_stop()
        with self._trainer.changed:
            if self._exit_code is None:
                self.is_given_up = True
                self.end(-signal.SIGKILL)
            self._trainer.changed.notify_all()

    def last_lines(self, count: int) -> list[str]:
        """Give the end of what the process wrote, of whichever run."""
        return self._trainer.last_lines(count)

    def hear(self, messages: Sequence[Message]) -> None:
        """Take what the trainer said of the run; called with the condition held."""
        if self._exit_code is not None:
            return
        self._messages += messages
        for message in messages:
            if type(message) in _CODES:
                self.end(_CODES[type(message)])

    def end(self, code: int | None) -> None:
        """Count the run as ended, unless it has; called with the condition held."""
        if self._exit_code is None:
            self._exit_code = code

    def __enter__(self) -> "TrainerSeat":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill()
