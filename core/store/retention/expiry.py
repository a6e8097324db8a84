"""Deletes what is older than a deployment keeps it: some at a time, in short transactions.

Nothing is too old unless a setting says so, and nothing leaves of a job that has not ended. What something needs that
stays, stays however old it is. Ages are by the database's clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from sqlalchemy import delete, or_, select, tuple_

from core.experiments.status import ExperimentStatus
from core.jobs.status import TERMINAL, JobStatus
from core.settings import Settings
from core.store.aliases import records as aliases
from core.store.db import Database, Session
from core.store.files import RESULTS_PURPOSE
from core.store.references.rows import database_now, let_go
from core.store.tables import (
    AdapterRecord,
    AttemptRecord,
    CheckpointRecord,
    EventRecord,
    ExperimentFileRecord,
    ExperimentRecord,
    ExperimentRunRecord,
    ExpiredFileRecord,
    FileRecord,
    IdempotencyRecord,
    JobAdapterRecord,
    JobRecord,
)

EXPIRE_EVERY_S: Final = 60
_DAY_S: Final = 24 * 60 * 60
_ROWS: Final = 500  # deleted in one transaction, for which other writers have to wait
_TRANSACTIONS: Final = 20  # of a pass; its thread has leases to watch
_JOBS: Final = 200  # looked at in a pass

_Due = Callable[[Session], Sequence[Any]]
_Drop = Callable[[Session, Sequence[Any]], None]


@dataclass(frozen=True)
class Retention:
    """For how many days something stays; None: for ever.

    Attributes:
        checkpoints: after the end of their job, as are the next two.
        idempotency_keys: after they were first used.
        result_files: after they were made.
    """

    checkpoints: int | None = None
    events: int | None = None
    failed_attempts: int | None = None
    idempotency_keys: int | None = None
    result_files: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            checkpoints=settings.retention_checkpoints_d,
            events=settings.retention_events_d,
            failed_attempts=settings.retention_failed_attempts_d,
            idempotency_keys=settings.retention_idempotency_keys_d,
            result_files=settings.retention_result_files_d,
        )


class Expiry:
    """One process's way round the database. Any number may be under way; each not for use by two threads."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention
        self._seen = ""  # the last job that was looked at, in the order of their ages; the next pass goes on behind it
        self._transactions = 0

    def expire(self) -> int:
        """Delete some of what is too old, and give how many rows that were; the next pass goes on.

        Raises:
            DatabaseUnavailable: the database was busy or unreachable.
            StorageFull: its disk is full, and so full that nothing can be deleted.
        """
        self._transactions = _TRANSACTIONS
        keep = self._retention
        gone = 0
        if keep.idempotency_keys is not None:
            before_s = keep.idempotency_keys * _DAY_S
            gone += self._drop_all(lambda session: _due_keys(session, before_s), _drop_keys)
        if keep.result_files is not None:
            made_s = keep.result_files * _DAY_S
            gone += self._drop_all(lambda session: _due_results(session, made_s), _drop_results)
        return gone + self._expire_of_jobs()

    def _expire_of_jobs(self) -> int:
        """Look at the next jobs, and after the last at the first again."""
        kinds = [kind for kind in _OF_JOBS if getattr(self._retention, kind) is not None]
        if not kinds:
            return 0
        with self._database.read() as session:
            page = session.execute(
                select(JobRecord.id, (database_now(session) - JobRecord.finished_at).label("ended_s"))
                .where(JobRecord.id > self._seen)
                .order_by(JobRecord.id)
                .limit(_JOBS)
            ).all()
        gone = 0
        for job_id, ended_s in page:
            for kind in kinds:
                if ended_s is not None and ended_s >= getattr(self._retention, kind) * _DAY_S:
                    gone += self._expire_of_job(job_id, *_OF_JOBS[kind])
            if self._transactions == 0:
                return gone  # and look at this one again
            self._seen = job_id
        if len(page) < _JOBS:
            self._seen = ""
        return gone

    def _expire_of_job(self, job_id: str, due: Callable[[Session, str], Sequence[Any]], drop: _Drop) -> int:
        def locked(session: Session) -> Sequence[Any]:
            # as a deletion does: whoever begins to refer to a checkpoint looks at the same row
            session.execute(select(JobRecord.id).where(JobRecord.id == job_id).with_for_update())
            return due(session, job_id)

        return self._drop_all(lambda session: due(session, job_id), drop, locked)

    def _drop_all(self, due: _Due, drop: _Drop, locked: _Due | None = None) -> int:
        """Drop what is due until nothing is, or enough for this pass; what is not, costs no lock."""

        def drop_some(session: Session) -> int:
            rows = (locked or due)(session)
            drop(session, rows)
            return len(rows)

        gone = 0
        while self._transactions > 0:
            with self._database.read() as session:
                if not due(session):
                    break
            self._transactions -= 1
            gone += self._database.write_freeing(drop_some)
        return gone


def _due_keys(session: Session, keep_s: int) -> Sequence[Any]:
    key = (IdempotencyRecord.caller, IdempotencyRecord.route, IdempotencyRecord.key)
    old = IdempotencyRecord.created_at <= database_now(session) - keep_s
    return session.execute(select(*key).where(old).order_by(IdempotencyRecord.created_at).limit(_ROWS)).all()


def _drop_keys(session: Session, keys: Sequence[Any]) -> None:
    key = tuple_(IdempotencyRecord.caller, IdempotencyRecord.route, IdempotencyRecord.key)
    session.execute(delete(IdempotencyRecord).where(key.in_([tuple(row) for row in keys])))


def _due_results(session: Session, keep_s: int) -> Sequence[Any]:
    """List the oldest result files that are too old; ids are in the order of their ages, so one index leads to them."""
    needed = (
        select(ExperimentFileRecord.file_id)
        .join(ExperimentRecord, ExperimentRecord.id == ExperimentFileRecord.experiment_id)
        .where(ExperimentFileRecord.file_id == FileRecord.id, ExperimentRecord.status == ExperimentStatus.RUNNING)
    )
    oldest = session.execute(
        select(FileRecord.id, FileRecord.sha256, (database_now(session) - FileRecord.created_at).label("age_s"))
        .where(FileRecord.purpose == RESULTS_PURPOSE, ~needed.exists())
        .order_by(FileRecord.id)
        .limit(_ROWS)
    )
    return [row for row in oldest if row.age_s >= keep_s]


def _drop_results(session: Session, files: Sequence[Any]) -> None:
    session.execute(delete(FileRecord).where(FileRecord.id.in_([file.id for file in files])))
    for file in files:
        session.add(ExpiredFileRecord(id=file.id, expired_at=database_now(session)))
    session.flush()
    let_go(session, {file.sha256 for file in files})


def _due_events(session: Session, job_id: str) -> Sequence[Any]:
    """List a job's oldest events. The last, which says how it ended, stays; so the numbers have no gaps."""
    older = EventRecord.seq < select(JobRecord.event_seq).where(JobRecord.id == job_id).scalar_subquery()
    events = select(EventRecord.id).where(EventRecord.job_id == job_id, older)
    return session.scalars(events.order_by(EventRecord.seq).limit(_ROWS)).all()


def _drop_events(session: Session, ids: Sequence[Any]) -> None:
    session.execute(delete(EventRecord).where(EventRecord.id.in_(ids)))


def _due_attempts(session: Session, job_id: str) -> Sequence[Any]:
    failed = or_(AttemptRecord.outcome.is_(None), AttemptRecord.outcome != JobStatus.SUCCEEDED.value)
    attempts = select(AttemptRecord.job_id, AttemptRecord.token).where(AttemptRecord.job_id == job_id, failed)
    return session.execute(attempts.order_by(AttemptRecord.token).limit(_ROWS)).all()


def _drop_attempts(session: Session, keys: Sequence[Any]) -> None:
    key = tuple_(AttemptRecord.job_id, AttemptRecord.token)
    session.execute(delete(AttemptRecord).where(key.in_([tuple(row) for row in keys])))


def _due_checkpoints(session: Session, job_id: str) -> Sequence[Any]:
    """List a job's checkpoints that nothing needs; the newest of a job without a model is all that is left of it."""
    checkpoints = session.execute(
        select(CheckpointRecord.id, CheckpointRecord.name, CheckpointRecord.adapter_sha256)
        .where(CheckpointRecord.job_id == job_id)
        .order_by(CheckpointRecord.step)
    ).all()
    if session.scalar(select(AdapterRecord.id).where(AdapterRecord.job_id == job_id)) is None:
        checkpoints = checkpoints[:-1]
    return [row for row in checkpoints if not _is_needed(session, job_id, row.name, row.adapter_sha256)][:_ROWS]


def _is_needed(session: Session, job_id: str, name: str, sha256: str) -> bool:
    """Tell whether an alias, a running experiment, or a job that has not ended needs a checkpoint."""
    running = (
        select(ExperimentRunRecord.job_id)
        .join(ExperimentRecord, ExperimentRecord.id == ExperimentRunRecord.experiment_id)
        .where(ExperimentRunRecord.job_id == job_id, ExperimentRecord.status == ExperimentStatus.RUNNING)
    )
    going_on = select(JobRecord.id).where(JobRecord.continue_from_sha256 == sha256, JobRecord.status.not_in(TERMINAL))
    asking = (
        select(JobRecord.id)
        .join(JobAdapterRecord, JobAdapterRecord.job_id == JobRecord.id)
        .where(JobAdapterRecord.adapter_sha256 == sha256, JobRecord.status.not_in(TERMINAL))
    )
    return aliases.find_standing_for(session, [name]) is not None or any(
        session.scalar(question.limit(1)) is not None for question in (running, going_on, asking)
    )


def _drop_checkpoints(session: Session, checkpoints: Sequence[Any]) -> None:
    session.execute(delete(CheckpointRecord).where(CheckpointRecord.id.in_([row.id for row in checkpoints])))
    let_go(session, {row.adapter_sha256 for row in checkpoints})


# What can be too old of a job that has ended: how to find some of it, and to drop what was found.
_OF_JOBS: Final[dict[str, tuple[Callable[[Session, str], Sequence[Any]], _Drop]]] = {
    "checkpoints": (_due_checkpoints, _drop_checkpoints),
    "events": (_due_events, _drop_events),
    "failed_attempts": (_due_attempts, _drop_attempts),
}
