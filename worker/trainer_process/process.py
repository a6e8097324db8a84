"""The trainer as a process: starts it in a run folder, reads its pipes, and ends it.

Knows neither database nor what a message means for the job; that is ``worker.jobs.supervision``.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from core.process.bound import bound
from core.process.priority import give_way
from core.process.threads import IDLE_THREADS_SLEEP
from worker.trainer_process import run_folder
from worker.trainer_process.log import TrainerLog
from worker.trainer_process.messages import Message, Said, parse
from worker.trainer_process.stop import StopFlag

COMMAND: Final = (sys.executable, "-m", "worker.training")
LAUNCHER: Final = (sys.executable, "-m", "worker.training.process.launch")

# What a trainer may see of this process's environment: nothing that could carry a credential.
_PASSED: Final = frozenset(
    {
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONPATH",
        "PYTHONSAFEPATH",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
    }
)
_PASSED_PREFIXES: Final = ("CUDA", "KMP_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTORCH_", "TORCH", "TRITON_")
_CHUNK_BYTES: Final = 2**16


def command_for(gpus: int) -> tuple[str, ...]:
    """Give the command of a trainer that uses all of a machine's GPUs, or its CPU where there is none."""
    return COMMAND if gpus < 2 else (*LAUNCHER, "--ranks", str(gpus))


def trainer_environment(environ: dict[str, str]) -> dict[str, str]:
    """Give the part of an environment that a trainer is started with."""
    passed = {name: value for name, value in environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {**IDLE_THREADS_SLEEP, **passed}


def takes_several_runs(command: tuple[str, ...]) -> bool:
    """Tell whether a trainer with this command can have several run folders; on several GPUs it has one."""
    return command[: len(LAUNCHER)] != LAUNCHER


class Trainer(Protocol):
    """A run's trainer as its watcher knows it: a process, or a seat in a shared one."""

    @property
    def exit_code(self) -> int | None: ...
    def listen(self, timeout_s: float, stop: StopFlag | None = None) -> list[Message]: ...
    def drain(self) -> list[Message]: ...
    def ask_to_stop(self) -> None: ...
    def kill(self) -> None: ...
    def last_lines(self, count: int) -> list[str]: ...


class TrainerProcess:
    """One running trainer. It is killed with the thread that made this object, and when the context ends.

    Args:
        folders: of its runs; the log lies in each of them.
    """

    def __init__(self, *folders: Path, niceness: int, command: tuple[str, ...]) -> None:
        first, *others = folders
        self._log = TrainerLog(first / run_folder.LOG)
        for folder in others:
            os.link(first / run_folder.LOG, folder / run_folder.LOG)
        events_fd, trainers_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                bound([*command, *map(str, folders), "--events-fd", str(trainers_end)]),
                env=trainer_environment(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(trainers_end,),
                start_new_session=True,
            )
        finally:
            os.close(trainers_end)
        give_way(self._process.pid, niceness)
        self._unfinished_line = b""
        self._messages: list[Said] = []
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._events = os.fdopen(events_fd, "rb", buffering=0)
        self._watch(events_fd, self._take_events)
        self._watch(self._process.stdout.fileno(), self._log.write)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit status, negative for a signal as in `subprocess`; None while the trainer runs."""
        return self._process.poll()

    def listen(self, timeout_s: float, stop: StopFlag | None = None) -> list[Message]:
        """Wait until the trainer says something, ends, or ``stop`` is requested; give what was said.

        Raises:
            pydantic.ValidationError: the trainer broke the protocol.
        """
        return [said.message for said in self.listen_to_all(timeout_s, stop)]

    def listen_to_all(self, timeout_s: float, stop: StopFlag | None = None) -> list[Said]:
        """Do as `listen` does, and say of which run each message is."""
        if not self._selector.get_map():
            # Both pipes are closed, so the trainer is ending or already a zombie.
            self._wait(timeout_s)
            return []
        if stop is not None:
            self._selector.register(stop, selectors.EVENT_READ, None)
        try:
            self._read_ready(timeout_s)
        finally:
            if stop is not None:
                self._selector.unregister(stop)
        return self._take_messages()

    def drain(self) -> list[Message]:
        """Give what is left in the pipes of a trainer that has ended."""
        return [said.message for said in self.drain_all()]

    def drain_all(self) -> list[Said]:
        """Do as `drain` does, and say of which run each message is."""
        while self._selector.get_map() and self._read_ready(0):
            pass
        return self._take_messages()

    def ask_to_stop(self) -> None:
        """Let the trainer write a checkpoint and exit with ``EXIT_AGAIN``."""
        self._process.terminate()

    def kill(self) -> None:
        """End the trainer and what it started, at once, and wait until it has ended; any thread may call this."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # another thread has just seen its end
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_lines(self, count: int) -> list[str]:
        """Give the end of what it wrote to stdout and stderr."""
        return self._log.last_lines(count)

    def __enter__(self) -> "TrainerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._selector.close()
        self._events.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.__exit__(kind, error, trace)

    def _watch(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        os.set_blocking(descriptor, False)
        self._selector.register(descriptor, selectors.EVENT_READ, take)

    def _read_ready(self, timeout_s: float) -> bool:
        """Read once from each pipe that is ready; tell whether there was one."""
        ready = [key for key, _ in self._selector.select(timeout_s) if key.data is not None]
        for key in ready:
            chunk = os.read(key.fd, _CHUNK_BYTES)
            if chunk:
                key.data(chunk)
            else:
                self._selector.unregister(key.fd)
        return bool(ready)

    def _take_events(self, chunk: bytes) -> None:
        *lines, self._unfinished_line = (self._unfinished_line + chunk).split(b"\n")
        self._messages += [parse(line) for line in lines]

    def _take_messages(self) -> list[Said]:
        messages, self._messages = self._messages, []
        return messages

    def _wait(self, timeout_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
