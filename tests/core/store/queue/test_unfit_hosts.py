"""Jobs that a host gave back, because it could not run them."""

import pytest

from core.jobs.attempt import AttemptEnd
from core.jobs.events import EventLevel, JobEvent
from core.jobs.status import JobStatus
from core.store.db import Database
from core.store.queue import claims, control, leases, unfit_hosts
from core.store.queue.leases import Lease
from core.store.queue.unfit_hosts import UNFIT, UNPUBLISHED, UNSUITED
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import attempt_of, get, messages_of

WHY = JobEvent("a cannot run the job now: no space is left", EventLevel.WARN)


def claim(database: Database, host: str, now: int) -> JobRecord | None:
    with database.write() as session:
        return claims.claim(session, claims.WorkerIdentity("owner", host, 1), ("tiny",), now)


def give_back(database: Database, job: JobRecord, now: int, outcome: str = UNFIT, why: JobEvent = WHY) -> JobStatus:
    with database.write() as session:
        return leases.release(session, Lease(job.id, job.token), outcome, AttemptEnd(), now, why)


def claim_and_give_back(database: Database, host: str, now: int, outcome: str = UNFIT) -> str:
    job = claim(database, host, now)
    assert job is not None
    assert give_back(database, job, now, outcome) is JobStatus.QUEUED
    return job.id


def test_it_waits_uncounted_and_says_why(database: Database, make_job: MakeJob) -> None:
    make_job()
    job_id = claim_and_give_back(database, "a", 1000)
    job = get(database, job_id)
    assert (job.status, job.attempts, job.owner, job.waiting_reason) == (JobStatus.QUEUED, 0, None, WHY.message)
    assert messages_of(database, job_id) == [(1, EventLevel.WARN, WHY.message)]
    attempt = attempt_of(database, job_id, 1)
    assert (attempt.outcome, attempt.ended_at, attempt.retry_after_s) == ("unfit", 1000, 15)


def test_its_host_leaves_it_alone_for_a_time_that_doubles_up_to_ten_minutes(
    database: Database, make_job: MakeJob
) -> None:
    make_job()
    now = 1000
    for wait_s in (15, 30, 60, 120, 240, 480, 600, 600):
        claim_and_give_back(database, "a", now)
        assert claim(database, "a", now + wait_s - 1) is None
        now += wait_s


def test_another_host_takes_it_at_once(database: Database, make_job: MakeJob) -> None:
    make_job()
    claim_and_give_back(database, "a", 2000)
    taken = claim(database, "b", 2000)
    assert taken is not None
    assert get(database, taken.id).waiting_reason is None


def test_its_host_takes_the_next_job_meanwhile(database: Database, make_job: MakeJob) -> None:
    make_job()
    second = make_job()
    claim_and_give_back(database, "a", 1000)
    taken = claim(database, "a", 1001)
    assert taken is not None
    assert taken.id == second.id


def test_a_clock_that_was_set_back_makes_the_wait_no_longer(database: Database, make_job: MakeJob) -> None:
    make_job()
    claim_and_give_back(database, "a", 1_000_000)
    assert claim(database, "a", 1000) is not None


def test_a_result_that_waits_is_left_to_its_host_which_tries_after_growing_waits(
    database: Database, make_job: MakeJob
) -> None:
    make_job()
    job_id = claim_and_give_back(database, "a", 1000, UNPUBLISHED)
    assert claim(database, "b", 1000 + 3599) is None
    assert claim(database, "a", 1014) is None
    for now, wait_s in ((1015, 30), (1045, 60), (1105, 120)):
        claim_and_give_back(database, "a", now, UNPUBLISHED)
        assert attempt_of(database, job_id, get(database, job_id).token).retry_after_s == wait_s
    assert claim(database, "b", 1105 + 3599) is None
    assert claim(database, "b", 1105 + 3600) is not None


def test_the_same_event_is_written_ever_more_rarely(database: Database, make_job: MakeJob) -> None:
    make_job()
    told = []
    for hour in range(17):
        job_id = claim_and_give_back(database, "a", 1000 + hour * 3600)
        told.append(len(messages_of(database, job_id)))
    assert [told.index(count) for count in range(1, told[-1] + 1)] == [0, 1, 3, 7, 15]  # hours


def test_another_reason_is_told_at_once(database: Database, make_job: MakeJob) -> None:
    make_job()
    claim_and_give_back(database, "a", 1000)
    job = claim(database, "b", 1000)
    assert job is not None
    give_back(database, job, 1000, why=JobEvent("b cannot run the job now: it has no base model", EventLevel.WARN))
    assert len(messages_of(database, job.id)) == 2


@pytest.mark.parametrize("asked", [JobStatus.CANCELLED, JobStatus.PAUSED])
def test_what_is_asked_of_the_job_comes_first(database: Database, make_job: MakeJob, asked: JobStatus) -> None:
    make_job()
    job = claim(database, "a", 1000)
    assert job is not None
    with database.write() as session:
        (control.cancel if asked is JobStatus.CANCELLED else control.pause)(session, job.id, 1001)
    assert give_back(database, job, 1002) is asked
    assert get(database, job.id).waiting_reason is None


def test_attempts_that_failed_in_a_row_are_those_since_the_host_ran_one(database: Database, make_job: MakeJob) -> None:
    def in_a_row() -> list[tuple[str, int]]:
        with database.read() as session:
            return [(seen.job_id, seen.token) for seen in unfit_hosts.list_unfit_in_a_row(session, "a")]

    first, second, third, fourth = (make_job().id for _ in range(4))
    claim_and_give_back(database, "a", 1000)
    claim_and_give_back(database, "a", 1001, UNPUBLISHED)
    assert in_a_row() == [(second, 1), (first, 1)]

    other = claim(database, "b", 1002)
    assert other is not None
    assert other.id == first
    with database.write() as session:
        leases.cancel(session, Lease(other.id, other.token), AttemptEnd(), 1003)
    assert in_a_row() == [(second, 1), (first, 1)]

    assert claim_and_give_back(database, "a", 1004, UNSUITED) == third  # which says nothing of the host
    assert in_a_row() == [(second, 1), (first, 1)]

    ran = claim(database, "a", 1005)
    assert ran is not None
    assert ran.id == fourth
    with database.write() as session:
        leases.cancel(session, Lease(ran.id, ran.token), AttemptEnd(), 1006)
    assert in_a_row() == []
