"""Jobs are taken from workers that fell silent, once, and from no others."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from core.jobs.attempt import AttemptEnd
from core.jobs.events import EventLevel
from core.jobs.status import JobStatus
from core.store.db import Database
from core.store.queue import control, leases
from core.store.queue.leases import Lease, ObservedLease
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import attempt_of, claim, everything, get, messages_of, publish


def _observe(database: Database) -> ObservedLease:
    with database.read() as session:
        (observed,) = leases.list_running(session)
    return observed


class TestReclaim:
    def test_shows_the_running_jobs_only(self, database: Database, running: JobRecord, make_job: MakeJob) -> None:
        make_job()
        assert _observe(database) == ObservedLease(Lease(running.id, 1), running.hb_seq)

    def test_puts_a_silent_workers_job_back(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.reclaim(session, _observe(database), max_attempts=3, now=201) is JobStatus.QUEUED
        job = get(database, running.id)
        assert (job.status, job.attempts, job.token) == (JobStatus.QUEUED, 1, 1)
        assert attempt_of(database, running.id, 1).outcome == leases.LOST
        assert [level for _, level, _ in messages_of(database, running.id)] == [EventLevel.WARN]

    def test_does_nothing_when_the_heartbeat_moved_on(self, database: Database, running: JobRecord) -> None:
        observed = _observe(database)
        with database.write() as session:
            leases.heartbeat(session, Lease(running.id, 1), None)
        before = everything(database)
        with database.write() as session:
            assert leases.reclaim(session, observed, max_attempts=1, now=201) is None
        assert everything(database) == before

    def test_does_nothing_when_another_worker_has_the_job(self, database: Database, running: JobRecord) -> None:
        observed = _observe(database)
        with database.write() as session:
            leases.release(session, Lease(running.id, 1), "released", AttemptEnd(), 200)
        assert claim(database) is not None
        with database.write() as session:
            assert leases.reclaim(session, observed, max_attempts=3, now=201) is None

    def test_does_nothing_when_the_job_has_ended(self, database: Database, running: JobRecord) -> None:
        observed = _observe(database)
        with database.write() as session:
            publish(session, Lease(running.id, 1))
        with database.write() as session:
            assert leases.reclaim(session, observed, max_attempts=1, now=301) is None
        assert get(database, running.id).status is JobStatus.SUCCEEDED

    def test_fails_a_job_whose_attempts_are_used_up(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.reclaim(session, _observe(database), max_attempts=2, now=201) is JobStatus.QUEUED
        assert claim(database) is not None
        with database.write() as session:
            assert leases.reclaim(session, _observe(database), max_attempts=2, now=202) is JobStatus.FAILED
        job = get(database, running.id)
        assert (job.error_code, job.finished_at) == ("worker_lost", 202)
        assert job.error_message is not None
        assert "2 attempts" in job.error_message

    def test_ends_a_job_whose_cancellation_was_asked_for_meanwhile(
        self, database: Database, running: JobRecord
    ) -> None:
        observed = _observe(database)
        with database.write() as session:
            control.cancel(session, running.id, now=201)
        with database.write() as session:
            assert leases.reclaim(session, observed, max_attempts=1, now=202) is JobStatus.CANCELLED

    def test_pauses_a_job_whose_pause_was_asked_for(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            assert leases.reclaim(session, _observe(database), max_attempts=2, now=201) is JobStatus.PAUSED
        job = get(database, running.id)
        assert (job.status, job.attempts, job.owner) == (JobStatus.PAUSED, 1, None)
        assert attempt_of(database, running.id, 1).outcome == leases.LOST
        assert claim(database) is None

    def test_fails_rather_than_pauses_a_job_whose_attempts_are_used_up(
        self, database: Database, running: JobRecord
    ) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            assert leases.reclaim(session, _observe(database), max_attempts=1, now=201) is JobStatus.FAILED

    def test_of_many_at_once_happens_once(self, database: Database, running: JobRecord) -> None:
        observed = _observe(database)
        together = threading.Barrier(4)

        def reclaim() -> JobStatus | None:
            together.wait()
            with database.write() as session:
                return leases.reclaim(session, observed, max_attempts=3, now=201)

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(reclaim) for _ in range(4)]
        assert Counter(each.result() for each in done) == {JobStatus.QUEUED: 1, None: 3}
        assert len(messages_of(database, running.id)) == 1
