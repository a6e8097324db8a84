"""Jobs that one trainer trains together: which may, and how the attempts at them share it, each in its own thread.

They share a process and nothing else: each has its own lease, heartbeats, events, run folder and ending. Jobs of which
an earlier attempt counts are trained by themselves, so that one which kills its trainer costs others one attempt;
reruns too, as torch's own products round by how many rows there are.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from core.estimates.estimate import Estimate
from core.estimates.memory_plan import peak_bytes_together
from core.jobs.spec import JobSpec
from core.store.db import Session
from core.store.queue import claims
from core.store.tables import JobRecord
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.process import TrainerProcess, takes_several_runs
from worker.trainer_process.shared import SharedTrainer, TrainerSeat

StartTrainer = Callable[[Path, Callable[[], None]], TrainerProcess | TrainerSeat]
"""Starts a trainer in a run folder; calls what it is given now and then while it waits."""


def claim_beside(session: Session, runtime: WorkerRuntime, job: JobRecord, now: int) -> list[JobRecord]:
    """Claim further jobs to be trained together with one that was just claimed, as many as may be and fit."""
    at_most = runtime.settings.train_together - 1
    if at_most < 1 or job.attempts > 1 or job.rerun_of is not None or not takes_several_runs(runtime.trainer_command):
        return []
    fit = partial(_fit_together, available_bytes=psutil.virtual_memory().available)
    return claims.claim_beside(session, runtime.identity, job, now, at_most=at_most, fit=fit)


def _fit_together(jobs: Sequence[JobRecord], available_bytes: int) -> bool:
    """Tell whether jobs share what a trainer loads once, and memory suffices for all, as far as their estimates say."""
    specs = [JobSpec.model_validate(job.spec) for job in jobs]
    if len({_shared_by(spec) for spec in specs}) > 1:
        return False
    estimates = [Estimate.model_validate(job.estimate) for job in jobs if job.estimate is not None]
    memories = [estimate.memory for estimate in estimates if estimate.memory is not None]
    if len(memories) < len(jobs):
        return False
    on_gpu = [estimate.machine.memory_bytes for estimate in estimates if estimate.machine.device not in (None, "cpu")]
    limit = min([bytes_ for bytes_ in on_gpu if bytes_ is not None], default=available_bytes)
    return peak_bytes_together(memories) <= limit


def _shared_by(spec: JobSpec) -> tuple[object, ...]:
    """Name what jobs must agree on."""
    validation = None if spec.validation_file is None else spec.validation_file.sha256
    return spec.base_model, spec.base_model_fingerprint, spec.quantization, spec.training_file.sha256, validation


def start_trainer(runtime: WorkerRuntime, folders: Sequence[Path]) -> TrainerProcess:
    """Start a trainer in some run folders."""
    return TrainerProcess(*folders, niceness=runtime.settings.trainer_niceness, command=runtime.trainer_command)


def run_together(runtime: WorkerRuntime, attempts: Sequence[Callable[[StartTrainer], None]]) -> None:
    """Run attempts at some claimed jobs with one trainer, to the end or release of all; none of them raises."""
    trainer = SharedTrainer(len(attempts), partial(start_trainer, runtime))

    def run_one(attempt: Callable[[StartTrainer], None]) -> None:
        try:
            attempt(trainer.seat)
        finally:
            trainer.stay_away()

    threads = [threading.Thread(target=run_one, args=(attempt,), name="attempt") for attempt in attempts]
    for thread in threads:
        thread.start()
    try:
        trainer.run()
    finally:
        for thread in threads:
            thread.join()
