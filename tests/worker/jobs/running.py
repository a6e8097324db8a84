"""Runs jobs as a worker does, in the test's thread or beside it."""

import threading
import time
from collections.abc import Callable, Iterable

import psutil

from core.settings import Settings
from core.store.tables import EventRecord
from tests.harness.fake_trainer import COMMAND
from tests.worker.conftest import Home
from worker.jobs.duty import run_next
from worker.jobs.host_gate import HostGate
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag


def run(home: Home, settings: Settings | None = None, stop: StopFlag | None = None) -> bool:
    return run_on(home.runtime(settings), stop)


def run_on(runtime: WorkerRuntime, stop: StopFlag | None = None) -> bool:
    """Run the next job that this worker may claim."""
    return run_next(runtime, stop or StopFlag(), trainings(HostGate(runtime)))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)


def in_background(home: Home, settings: Settings | None = None, stop: StopFlag | None = None) -> threading.Thread:
    thread = threading.Thread(target=run, args=(home, settings, stop))
    thread.start()
    return thread


def own_trainers() -> list[psutil.Process]:
    """Give the fake trainers that this process started and that have not ended."""
    return fake_trainers(psutil.Process().children())


def fake_trainers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Give those of the processes that are fake trainers and have not ended."""
    return [process for process in processes if _is_fake_trainer(process)]


def _is_fake_trainer(process: psutil.Process) -> bool:
    try:
        return COMMAND[-1] in process.cmdline()
    except psutil.NoSuchProcess:  # also a process that has ended and is yet to be waited for
        return False


def pause_in_the_middle(home: Home, job_id: str, settings: Settings | None = None) -> None:
    """Run the job, have it paused after a step of this attempt, and wait until its worker is done with it."""
    steps_before = len(metrics_of(home, job_id))
    thread = in_background(home, settings)
    wait_for(lambda: len(metrics_of(home, job_id)) > steps_before)
    home.pause(job_id)
    thread.join()


def metrics_of(home: Home, job_id: str) -> list[EventRecord]:
    return [event for event in home.events(job_id) if event.type == "metrics"]
