"""The two threads of a worker's main process: its own look for queued jobs, and the sweeper.

They know no Celery and need no broker, so jobs run while it is away.
"""

import os
import threading

import structlog

from core.dispatch.doorbell import Doorbell
from core.dispatch.sweeper import Sweeper
from core.process.signs_of_life import show_signs_of_life
from core.settings import Settings
from worker.jobs.host_gate import HostGate
from worker.jobs.run_folder_gc import free_ended_run_folders
from worker.jobs.runner import run_queued
from worker.jobs.runtime import WorkerRuntime, open_runtime
from worker.jobs.slot import WorkerSlot, slot_path
from worker.trainer_process.stop import StopFlag

_log = structlog.stdlib.get_logger(__name__)


class Background:
    """Both threads, from their start to their end."""

    def __init__(self, settings: Settings) -> None:
        runtime = open_runtime(settings)
        sweeper = Sweeper(runtime.database, runtime.blobs, Doorbell(settings), settings)
        self._stop = StopFlag()
        self._sweeping_ends = threading.Event()
        self._slot_path = slot_path(settings.runs_folder, os.getpid())
        self._threads = (
            threading.Thread(target=poll, args=(runtime, WorkerSlot(self._slot_path), self._stop), name="poll"),
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
        """Stop both threads and wait for them, which takes as long as the trainer's last checkpoint."""
        self._stop.request()
        self._sweeping_ends.set()
        for thread in self._threads:
            thread.join()
        self._slot_path.unlink(missing_ok=True)


def poll(runtime: WorkerRuntime, slot: WorkerSlot, stop: StopFlag) -> None:
    """Look for queued jobs now and every ``poll_s``, and free the disk from ended ones, until stopped."""
    gate = HostGate(runtime)
    while not stop.requested:
        try:
            run_queued(runtime, slot, stop, gate)
            free_ended_run_folders(runtime)
        except Exception:
            # A worker that no longer looks would be of no use while the broker is away.
            _log.exception("look for jobs failed")
        stop.wait(runtime.settings.poll_s)
