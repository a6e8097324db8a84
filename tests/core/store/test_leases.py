"""Leases on jobs from their claim to their end, by whoever holds them."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from core.jobs.attempt import AttemptEnd, JobError
from core.jobs.events import EventLevel
from core.jobs.status import JobStatus
from core.store import adapters, control, jobs, leases
from core.store.control import RequestedAction
from core.store.db import Database
from core.store.leases import Lease, LeaseLost
from core.store.tables import AdapterRecord, AttemptRecord, EventRecord, JobRecord
from tests.core.store.conftest import MakeFile, MakeJob
from tests.core.store.leased import DIGEST, attempt_of, claim, claim_beside, everything, get, messages_of, publish


class TestClaim:
    def test_takes_the_oldest_queued_job_and_opens_an_attempt(self, database: Database, make_job: MakeJob) -> None:
        first, second = make_job(), make_job()
        job = claim(database)
        assert job is not None
        assert (job.id, job.status, job.token, job.attempts) == (first.id, JobStatus.RUNNING, 1, 1)
        assert (job.started_at, job.owner) == (200, "owner")
        attempt = attempt_of(database, job.id, 1)
        assert (attempt.owner, attempt.host, attempt.pid, attempt.started_at) == ("owner", "host", 1, 200)
        assert attempt.ended_at is None
        assert get(database, second.id).status is JobStatus.QUEUED

    def test_leaves_the_jobs_of_other_base_models(self, database: Database, make_job: MakeJob) -> None:
        make_job(base_model="another")
        assert claim(database) is None
        assert claim(database, base_models=()) is None

    def test_takes_others_of_the_same_file_with_it_the_oldest_first(
        self, database: Database, make_job: MakeJob, make_file: MakeFile
    ) -> None:
        _, *others = (make_job() for _ in range(4))
        elsewhere = [make_job(file=make_file()), make_job(base_model="another")]
        taken = claim_beside(database, claim(database), at_most=2)
        assert [job.id for job in taken] == [job.id for job in others[:2]]
        for job in taken:
            assert (job.status, job.token, job.attempts, job.owner) == (JobStatus.RUNNING, 1, 1, "owner")
            assert attempt_of(database, job.id, 1).started_at == 200
        assert {get(database, job.id).status for job in (others[2], *elsewhere)} == {JobStatus.QUEUED}

    def test_takes_no_others_that_do_not_fit_or_of_which_an_attempt_counts(
        self, database: Database, make_job: MakeJob
    ) -> None:
        make_job()
        job = claim(database)
        tried = make_job()
        again = claim(database)
        assert job is not None
        assert again is not None
        with database.write() as session:
            leases.release(session, Lease(tried.id, again.token), "trainer died", AttemptEnd(), 200)
        too_large, last = make_job(), make_job()
        seen: list[list[str]] = []

        def fit(jobs: Sequence[JobRecord]) -> bool:
            seen.append([job.id for job in jobs])
            return jobs[-1].id != too_large.id

        taken = claim_beside(database, job, at_most=3, fit=fit)
        assert [one.id for one in taken] == [last.id]
        assert seen == [[job.id, too_large.id], [job.id, last.id]]

    def test_gives_none_when_nothing_is_queued(self, database: Database, running: JobRecord) -> None:
        assert claim(database) is None

    def test_each_job_goes_to_exactly_one_of_many_threads(self, database: Database, make_job: MakeJob) -> None:
        made = {make_job().id for _ in range(20)}
        together = threading.Barrier(8)

        def take_all() -> list[str]:
            together.wait()
            taken = []
            while (job := claim(database)) is not None:
                taken.append(job.id)
            return taken

        with ThreadPoolExecutor(8) as pool:
            taken = [pool.submit(take_all) for _ in range(8)]
        claims = Counter(job_id for done in taken for job_id in done.result())
        # with SKIP LOCKED a claimer may find nothing while others hold the last rows, but no job is left over
        assert set(claims) == made
        assert set(claims.values()) == {1}
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(AttemptRecord)) == 20

    def test_each_job_goes_to_exactly_one_of_two_processes(
        self, url: str, database: Database, make_job: MakeJob
    ) -> None:
        made = {make_job().id for _ in range(20)}
        context = multiprocessing.get_context("spawn")
        taken: Queue[list[str]] = context.Queue()
        processes = [context.Process(target=_take_all, args=(url, taken)) for _ in range(2)]
        for process in processes:
            process.start()
        claims = Counter(job_id for _ in processes for job_id in taken.get(timeout=60))
        for process in processes:
            process.join()
        assert set(claims) == made
        assert set(claims.values()) == {1}

    def test_the_token_grows_with_each_claim(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            leases.release(session, Lease(running.id, running.token), "died", AttemptEnd(), 201)
        again = claim(database, now=202)
        assert again is not None
        assert (again.id, again.token, again.attempts) == (running.id, 2, 2)
        assert again.started_at == 200  # of the first attempt


def _take_all(url: str, taken: "Queue[list[str]]") -> None:
    database = Database(url)
    ids = []
    while (job := claim(database)) is not None:
        ids.append(job.id)
    taken.put(ids)
    database.dispose()


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
