"""What the doorbell's message does: it makes a pool process look for queued jobs and run them.

The job id in the message is only logged. Which job runs is decided by the claim.
"""

import functools
import os
import signal
from types import FrameType

import structlog

from core.dispatch.doorbell import TASK_NAME
from core.process.signs_of_life import show_signs_of_life
from worker.celery.app import app, settings
from worker.evaluating.runner import evaluations
from worker.exports.runner import exports
from worker.jobs.duty import run_queued
from worker.jobs.host_gate import HostGate
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime, open_runtime
from worker.jobs.slot import WorkerSlot, slot_path
from worker.trainer_process.stop import StopFlag

_log = structlog.stdlib.get_logger(__name__)


@functools.cache
def _runtime() -> WorkerRuntime:
    show_signs_of_life(os.environ)  # a pool process writes to the database too
    return open_runtime(settings)


def _look(job_id: str) -> None:
    stop = StopFlag()

    def stop_later(_signum: int, _frame: FrameType | None) -> None:
        stop.request()

    # A worker that is stopped sends SIGQUIT. Celery would raise SystemExit wherever the program stands,
    # also within a commit; the runner instead ends the trainer and releases the job in its own time.
    before = signal.signal(signal.SIGQUIT, stop_later)
    try:
        _log.debug("notified of a job", job_id=job_id)
        # The short ones first; meanwhile a training is found by the main process' own look. That process looks after
        # a host that is unfit, too.
        for duty in (evaluations(settings), exports(settings), trainings(HostGate(_runtime(), checks=False))):
            # a pool process's parent is the worker's main process
            slot = WorkerSlot(slot_path(settings.runs_folder, os.getppid(), duty.kind))
            run_queued(_runtime(), slot, stop, duty)
    finally:
        signal.signal(signal.SIGQUIT, before)


look = app.task(name=TASK_NAME, ignore_result=True)(_look)
