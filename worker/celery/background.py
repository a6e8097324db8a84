"""The threads of a worker's main process: its own looks for queued jobs, one of each kind, and the sweeper.

They know no Celery and need no broker, so jobs run while it is away.
"""

import os
import threading
import time

import structlog

from core.dispatch.doorbell import Doorbell
from core.dispatch.sweeper import Sweeper
from core.process.signs_of_life import show_signs_of_life
from core.settings import Settings
from worker.evaluating.runner import evaluations
from worker.exports.runner import exports
from worker.jobs.duty import Duty, run_queued
from worker.jobs.host_gate import HostGate
from worker.jobs.run_folder_gc import FORGET_EVERY_S, drop_forgotten_run_folders, free_ended_run_folders
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime, open_runtime
from worker.jobs.slot import WorkerSlot, slot_path
from worker.trainer_process.stop import StopFlag

_log = structlog.stdlib.get_logger(__name__)


class Background:
    """All threads, from their start to their end."""

    def __init__(self, settings: Settings) -> None:
        runtime = open_runtime(settings)
        sweeper = Sweeper(runtime.database, runtime.blobs, Doorbell(settings), settings)
        self._stop = StopFlag()
        self._sweeping_ends = threading.Event()
        duties = (trainings(HostGate(runtime)), evaluations(runtime.settings), exports(runtime.settings))
        self._slot_paths = [slot_path(settings.runs_folder, os.getpid(), duty.kind) for duty in duties]
        self._threads = (
            *(
                threading.Thread(
                    target=poll, args=(runtime, WorkerSlot(path), self._stop, duty), name=f"poll {duty.kind.value}"
                )
                for path, duty in zip(self._slot_paths, duties, strict=True)
            ),
            threading.Thread(target=sweeper.run, args=(self._sweeping_ends,), name="sweeper"),
        )

    def start(self) -> None:
        """Start the threads."""
        show_signs_of_life(os.environ)
        for thread in self._threads:
            thread.start()

    def request_stop(self) -> None:
        """Have the poll release its job and take no other; a signal handler may call this."""
        self._stop.request()

    def stop(self) -> None:
        """Stop the threads and wait for them, which takes as long as the trainer's last checkpoint."""
        self._stop.request()
        self._sweeping_ends.set()
        for thread in self._threads:
            thread.join()
        for path in self._slot_paths:
            path.unlink(missing_ok=True)


def poll(runtime: WorkerRuntime, slot: WorkerSlot, stop: StopFlag, duty: Duty) -> None:
    """Look for queued jobs of a kind now and every ``poll_s``, and free the disk from ended ones, until stopped."""
    forgot_s: float | None = None  # None: not since this thread started
    while not stop.requested:
        try:
            run_queued(runtime, slot, stop, duty)
            free_ended_run_folders(runtime)
            if forgot_s is None or time.monotonic() - forgot_s >= FORGET_EVERY_S:
                forgot_s = time.monotonic()
                drop_forgotten_run_folders(runtime)
        except Exception:
            # A worker that no longer looks would be of no use while the broker is away.
            _log.exception("look for jobs failed")
        stop.wait(runtime.settings.poll_s)
