"""What asking for an experiment means: when it is a repetition, and that it is made as a whole or not at all.

What it is refused for is ``app.experiments.planning``'s; what happens afterwards, `core.store.experiments`'.
"""

from dataclasses import dataclass
from typing import Any

from app.experiments.part_files import drop_files
from app.experiments.schemas import ExperimentCreate
from app.fine_tuning.repetition import requested_of
from core.errors import IdempotencyMismatch, ServiceError
from core.experiments.plan import ExperimentPlan
from core.store.db import Database, Session
from core.store.experiments import records
from core.store.experiments.records import NewExperiment
from core.store.tables import ExperimentRecord


@dataclass(frozen=True)
class AskedExperiment:
    """A request as it was sent, and by whom; ``key`` is its Idempotency-Key."""

    caller: str
    key: str | None
    requested: dict[str, Any]
    sha256: str

    @classmethod
    def of(cls, request: ExperimentCreate, caller: str, key: str | None) -> "AskedExperiment":
        return cls(caller, key, *requested_of(request))


def find_earlier(session: Session, asked: AskedExperiment) -> ExperimentRecord | None:
    """Find the experiment that an earlier attempt of this request made.

    Raises:
        IdempotencyMismatch: the key was used with another body.
    """
    earlier = None if asked.key is None else records.find_idempotent(session, asked.caller, asked.key)
    if earlier is not None and earlier.request_sha256 != asked.sha256:
        raise IdempotencyMismatch
    return earlier


def create(
    database: Database, asked: AskedExperiment, plan: ExperimentPlan, made: tuple[str, ...], now: int
) -> ExperimentRecord:
    """Record an experiment and queue its first jobs.

    Args:
        made: the files that are of no use without it.

    Raises:
        FileNotStored, InvalidParameter: a file or an adapter was deleted since the plan was made.
        IdempotencyInProgress: the key is being used at this moment.
    """
    new = NewExperiment(asked.caller, asked.requested, asked.sha256, plan, asked.key)
    try:
        with database.write() as session:
            return records.create(session, new, now)
    except ServiceError:
        drop_files(database, made)
        raise
