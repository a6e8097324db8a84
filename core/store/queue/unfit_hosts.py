"""Attempts that ended because their host could not run the job: how long that host leaves the job alone.

They count neither against the job nor as its failure. Which host is at fault, and what counts as its fault, is
``worker.jobs``' matter. Times are compared with the clock of the host that recorded them, except where a
host waits for another's result: then an hour more or less does no harm.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from core.jobs.kind import JobKind
from core.store.db import Session
from core.store.tables import AttemptRecord, EventRecord, JobRecord

UNFIT: Final = "unfit"  # the attempt's outcome when its host could not run the job
# the attempt's outcome when its host is sound and not what the job needs, as one with another base model
UNSUITED: Final = "unsuited"
UNPUBLISHED: Final = "unpublished"  # the attempt's outcome when its host holds the result and cannot store it
OUTCOMES: Final = (UNFIT, UNSUITED, UNPUBLISHED)

_FIRST_RETRY_S: Final = 15
_LONGEST_RETRY_S: Final = 600
# For so long the others leave a trained job to the host that holds its result, since that last tried to store it.
_RESULT_KEPT_S: Final = 3600
_TOLD_AGAIN_S: Final = 3600
_MOST_SEEN: Final = 16


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt that its host could not carry out."""

    job_id: str
    token: int


def left_alone(host: str, now: int) -> ColumnElement[bool]:
    """Tell of a `JobRecord`'s row whether this host is not to claim it yet."""
    own_wait = and_(
        AttemptRecord.host == host,
        AttemptRecord.ended_at <= now,  # else the clock was set back, and the wait would have no end
        AttemptRecord.ended_at + AttemptRecord.retry_after_s > now,
    )
    anothers_result = and_(
        AttemptRecord.host != host,
        AttemptRecord.outcome == UNPUBLISHED,
        AttemptRecord.ended_at > now - _RESULT_KEPT_S,
    )
    return exists().where(AttemptRecord.job_id == JobRecord.id, or_(own_wait, anothers_result))


def given_back(host: str) -> ColumnElement[bool]:
    """Tell of a `JobRecord`'s row whether this host has had it and could not run it."""
    own = and_(AttemptRecord.host == host, AttemptRecord.outcome.in_(OUTCOMES))
    return exists().where(AttemptRecord.job_id == JobRecord.id, own)


def retry_after_s(session: Session, job_id: str, outcome: str) -> int:
    """Give the seconds for which a host leaves a job alone: 15, twice as long each time, up to ten minutes.

    Attempts of all hosts count, so that a job that none can run costs ever less.
    """
    earlier = select(func.count()).where(AttemptRecord.job_id == job_id, AttemptRecord.outcome == outcome)
    return int(min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2 ** min(session.scalars(earlier).one(), 10)))


def is_news(session: Session, job_id: str, message: str, now: int) -> bool:
    """Tell whether an event is due: each time that it is written, the wait until it is written again doubles."""
    same = select(func.count(), func.max(EventRecord.created_at)).where(
        EventRecord.job_id == job_id, EventRecord.message == message
    )
    times, last = session.execute(same).one()
    return bool(times == 0 or now - last >= _TOLD_AGAIN_S * 2 ** (times - 1))


def list_unfit_in_a_row(session: Session, host: str) -> list[EndedAttempt]:
    """List the newest attempts to train on a host, newest first, up to one that it could carry out; at most sixteen.

    Those to which it was unsuited are passed over: of the host they say neither. So are evaluations, which no trainer
    carries out.
    """
    newest = session.execute(
        select(AttemptRecord.job_id, AttemptRecord.token, AttemptRecord.outcome)
        .join(JobRecord, JobRecord.id == AttemptRecord.job_id)
        .where(AttemptRecord.host == host, AttemptRecord.ended_at.is_not(None), AttemptRecord.outcome != UNSUITED)
        .where(JobRecord.kind == JobKind.FINE_TUNING)
        .order_by(AttemptRecord.ended_at.desc(), AttemptRecord.started_at.desc())
        .limit(_MOST_SEEN)
    )
    in_a_row = []
    for job_id, token, outcome in newest:
        if outcome not in OUTCOMES:
            break
        in_a_row.append(EndedAttempt(job_id, token))
    return in_a_row
