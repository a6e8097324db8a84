"""What a worker does with the jobs of one kind: whether this host may claim them now, and what an attempt at one is.

Each kind has a waiting line of its own, and a worker runs one job of each at a time: an evaluation, which asks an
engine, does not wait for a training that takes hours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from core.errors import DatabaseUnavailable, StorageFull
from core.jobs.kind import JobKind
from core.store.db import Session
from core.store.queue import claims
from core.store.tables import JobRecord
from worker.jobs.attempt import Attempt
from worker.jobs.runtime import WorkerRuntime
from worker.jobs.slot import WorkerSlot
from worker.trainer_process.stop import StopFlag

_log = structlog.stdlib.get_logger(__name__)


class Gate(Protocol):
    """Whether a host may claim jobs."""

    @property
    def is_on_trial(self) -> bool:
        """Whether jobs that the host has given back come last."""
        ...

    def claimable(self) -> tuple[str, ...]:
        """Give the base models whose jobs the host may claim now.

        Raises:
            DatabaseUnavailable: it cannot be asked.
        """
        ...


class EveryHost:
    """A gate that is always open."""

    is_on_trial = False

    def __init__(self, base_models: tuple[str, ...]) -> None:
        self._base_models = base_models

    def claimable(self) -> tuple[str, ...]:
        return self._base_models


@dataclass(frozen=True)
class Duty:
    """The jobs of one kind, as a worker sees them.

    Attributes:
        claim_beside: claims further jobs, to be done together with one that was just claimed.
        attempt_together: makes the attempts at all of them, to the end of each.
    """

    kind: JobKind
    gate: Gate
    attempt: Callable[[WorkerRuntime, JobRecord, StopFlag], Attempt]
    claim_beside: Callable[[Session, WorkerRuntime, JobRecord, int], list[JobRecord]] | None = None
    attempt_together: Callable[[WorkerRuntime, Sequence[JobRecord], StopFlag], None] | None = None


def run_queued(runtime: WorkerRuntime, slot: WorkerSlot, stop: StopFlag, duty: Duty) -> None:
    """Run jobs until none is queued; return at once when this worker is already at it."""
    with slot.take() as free:
        while free and not stop.requested:
            if not run_next(runtime, stop, duty):
                return


def run_next(runtime: WorkerRuntime, stop: StopFlag, duty: Duty) -> bool:
    """Run the oldest queued job to its end or release, and tell whether there was one that this host may run."""
    try:
        base_models = duty.gate.claimable()
        if not base_models:
            return False
        with runtime.database.write() as session:
            now = int(runtime.wall_clock())
            job = claims.claim(
                session, runtime.identity, base_models, now, kind=duty.kind, given_back_last=duty.gate.is_on_trial
            )
            others = [] if job is None or duty.claim_beside is None else duty.claim_beside(session, runtime, job, now)
    except (DatabaseUnavailable, StorageFull) as problem:
        _log.warning("no look for jobs", kind=duty.kind.value, reason=str(problem))
        return False
    if job is None:
        return False
    if others and duty.attempt_together is not None:
        duty.attempt_together(runtime, [job, *others], stop)
        return True
    with structlog.contextvars.bound_contextvars(job_id=job.id, token=job.token):
        _log.info("job claimed", attempt=job.attempts)
        duty.attempt(runtime, job, stop).run()
    return True
