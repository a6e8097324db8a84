"""Leases on jobs from their claim to their end, by whoever holds them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from core.jobs.attempt import AttemptEnd, JobError
from core.jobs.events import EventLevel
from core.jobs.status import JobStatus
from core.store import adapters, jobs
from core.store.db import Database
from core.store.queue import control, leases
from core.store.queue.control import RequestedAction
from core.store.queue.leases import Lease, LeaseLost
from core.store.tables import AdapterRecord, EventRecord, JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import DIGEST, attempt_of, claim, everything, get, messages_of, publish


class TestHeartbeat:
    def test_counts_up_and_keeps_the_progress_it_is_given(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.heartbeat(session, Lease(running.id, 1), {"step": 3}) is None
            assert leases.heartbeat(session, Lease(running.id, 1), None) is None
        job = get(database, running.id)
        assert job.hb_seq == running.hb_seq + 2
        assert job.progress == {"step": 3}

    def test_tells_what_is_asked_of_the_job(self, database: Database, running: JobRecord) -> None:
        for ask, action in ((control.pause, RequestedAction.PAUSE), (control.cancel, RequestedAction.CANCEL)):
            with database.write() as session:
                ask(session, running.id, now=210)
                assert leases.heartbeat(session, Lease(running.id, 1), None) is action
                assert leases.hold(session, Lease(running.id, 1)) is action


class TestRelease:
    def test_puts_the_job_back_and_counts_the_attempt(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            jobs.mark_notified(session, [running.id], now=190)
            status = leases.release(session, Lease(running.id, 1), "died", AttemptEnd(last_step=4, exit_signal=9), 201)
        assert status is JobStatus.QUEUED
        job = get(database, running.id)
        assert (job.status, job.attempts, job.owner, job.notified_at) == (JobStatus.QUEUED, 1, None, None)
        attempt = attempt_of(database, running.id, 1)
        assert (attempt.outcome, attempt.exit_signal, attempt.last_step, attempt.ended_at) == ("died", 9, 4, 201)

    def test_of_a_worker_that_shuts_down_does_not_count(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            leases.release(session, Lease(running.id, 1), leases.RELEASED, AttemptEnd(), 201)
        assert get(database, running.id).attempts == 0

    def test_ends_a_job_whose_cancellation_was_asked_for(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.cancel(session, running.id, now=200)
            assert leases.release(session, Lease(running.id, 1), "released", AttemptEnd(), 201) is JobStatus.CANCELLED
        job = get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.CANCELLED, 201)

    def test_for_a_pause_does_not_count_and_frees_the_lease(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            status = leases.release(session, Lease(running.id, 1), leases.PAUSED, AttemptEnd(last_step=7), 201)
        assert status is JobStatus.PAUSED
        job = get(database, running.id)
        assert (job.status, job.attempts, job.owner, job.finished_at) == (JobStatus.PAUSED, 0, None, None)
        attempt = attempt_of(database, running.id, 1)
        assert (attempt.outcome, attempt.last_step, attempt.ended_at) == ("paused", 7, 201)
        assert claim(database) is None

    def test_queues_a_job_whose_pause_was_withdrawn(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            control.resume(session, running.id, now=200)
            assert leases.release(session, Lease(running.id, 1), leases.PAUSED, AttemptEnd(), 201) is JobStatus.QUEUED
        assert get(database, running.id).attempts == 0
        assert "withdrawn" in messages_of(database, running.id)[-1][2]

    @pytest.mark.parametrize(("outcome", "attempts"), [(leases.RELEASED, 0), ("trainer died", 1)])
    def test_however_it_came_about_pauses_a_job_that_is_to_be_paused(
        self, database: Database, running: JobRecord, outcome: str, attempts: int
    ) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            assert leases.release(session, Lease(running.id, 1), outcome, AttemptEnd(), 201) is JobStatus.PAUSED
        assert get(database, running.id).attempts == attempts

    def test_cancels_rather_than_pauses(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.pause(session, running.id, now=200)
            control.cancel(session, running.id, now=200)
            assert (
                leases.release(session, Lease(running.id, 1), leases.PAUSED, AttemptEnd(), 201) is JobStatus.CANCELLED
            )


class TestFailAndCancel:
    def test_records_the_error_of_a_failed_job(self, database: Database, running: JobRecord) -> None:
        error = JobError("no_trained_tokens", "every weight is zero", "training_file")
        with database.write() as session:
            leases.fail(session, Lease(running.id, 1), error, AttemptEnd(last_step=2, exit_signal=6), 201)
        job = get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.FAILED, 201)
        assert JobError(job.error_code or "", job.error_message or "", job.error_param) == error
        assert messages_of(database, running.id) == [(1, EventLevel.ERROR, "The job failed: every weight is zero")]
        attempt = attempt_of(database, running.id, 1)
        assert (attempt.outcome, attempt.exit_signal, attempt.last_step) == ("failed", 6, 2)

    def test_cancels(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            leases.cancel(session, Lease(running.id, 1), AttemptEnd(), 201)
        assert get(database, running.id).status is JobStatus.CANCELLED
        assert messages_of(database, running.id) == [(1, EventLevel.INFO, "The job was cancelled")]


class TestPublish:
    def test_ends_the_job_with_its_adapter_and_its_last_event(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            publish(session, Lease(running.id, 1))
        job = get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.SUCCEEDED, 300)
        assert (job.fine_tuned_model, job.trained_on, job.trained_tokens) == ("ft:tiny:local::1", "the completions", 5)
        assert job.result == {"loss": 0.5}
        with database.read() as session:
            adapter = adapters.get(session, "ft:tiny:local::1")
        assert (adapter.job_id, adapter.token, adapter.adapter_sha256) == (job.id, 1, DIGEST)
        assert (adapter.base_model, adapter.bytes) == ("tiny", 10)
        message = "The job has successfully completed. It trained on the completions"
        assert messages_of(database, job.id) == [(1, EventLevel.INFO, message)]
        attempt = attempt_of(database, job.id, 1)
        assert (attempt.outcome, attempt.last_step) == ("succeeded", 9)

    def test_is_all_or_nothing(self, database: Database, running: JobRecord, make_job: MakeJob) -> None:
        with database.write() as session:
            publish(session, Lease(running.id, 1), name="ft:taken")
        make_job()
        second = claim(database)
        assert second is not None
        before = everything(database)
        with pytest.raises(IntegrityError), database.write() as session:
            publish(session, Lease(second.id, 1), name="ft:taken")
        assert everything(database) == before
        with database.write() as session:
            publish(session, Lease(second.id, 1), name="ft:free")

    def test_of_two_at_once_happens_once(self, database: Database, running: JobRecord) -> None:
        together = threading.Barrier(4)

        def has_published() -> bool:
            together.wait()
            try:
                with database.write() as session:
                    publish(session, Lease(running.id, 1))
            except LeaseLost:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(has_published) for _ in range(4)]
        assert sorted(each.result() for each in done) == [False, False, False, True]
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(AdapterRecord)) == 1
            assert session.scalar(select(func.count()).select_from(EventRecord)) == 1

    def test_wins_over_a_cancellation_that_comes_later(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            control.cancel(session, running.id, now=250)
            publish(session, Lease(running.id, 1))
        with database.write() as session:
            assert control.cancel(session, running.id, now=301).status is JobStatus.SUCCEEDED
