import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from core.errors import JobNotFound
from core.events import EventLevel, EventType
from core.jobs import JobStatus
from core.store import adapters, events, jobs, leases, steering
from core.store.db import Database, Session
from core.store.leases import Lease, LeaseLost
from core.store.steering import Wish
from core.store.tables import AdapterRecord, AttemptRecord, EventRecord, JobRecord
from tests.core.store.conftest import MakeJob

DIGEST = "a" * 64
Act = Callable[[Session, str, int], Any]


def _claim(database: Database, now: int = 200, base_models: tuple[str, ...] = ("tiny",)) -> JobRecord | None:
    with database.write() as session:
        return leases.claim(session, owner="owner", host="host", pid=1, base_models=base_models, now=now)


def _get(database: Database, job_id: str) -> JobRecord:
    with database.read() as session:
        return jobs.get(session, job_id)


def _attempt(database: Database, job_id: str, token: int) -> AttemptRecord:
    with database.read() as session:
        return session.get_one(AttemptRecord, (job_id, token))


def _messages(database: Database, job_id: str) -> list[tuple[int, EventLevel, str]]:
    with database.read() as session:
        return [(event.seq, event.level, event.message) for event in events.list_after(session, job_id, 0, 100)]


def _publish(session: Session, job_id: str, token: int, name: str = "ft:tiny:local::1") -> None:
    leases.publish(
        session,
        job_id,
        token,
        adapter_sha256=DIGEST,
        bytes=10,
        name=name,
        trained_on="the completions",
        trained_tokens=5,
        result={"loss": 0.5},
        last_step=9,
        now=300,
    )


@pytest.fixture
def running(database: Database, make_job: MakeJob) -> JobRecord:
    make_job()
    job = _claim(database)
    assert job is not None
    return job


class TestClaim:
    def test_takes_the_oldest_queued_job_and_opens_an_attempt(self, database: Database, make_job: MakeJob) -> None:
        first, second = make_job(), make_job()
        job = _claim(database)
        assert job is not None
        assert (job.id, job.status, job.token, job.attempts) == (first.id, JobStatus.RUNNING, 1, 1)
        assert (job.started_at, job.owner) == (200, "owner")
        attempt = _attempt(database, job.id, 1)
        assert (attempt.owner, attempt.host, attempt.pid, attempt.started_at) == ("owner", "host", 1, 200)
        assert attempt.ended_at is None
        assert _get(database, second.id).status is JobStatus.QUEUED

    def test_leaves_the_jobs_of_other_base_models(self, database: Database, make_job: MakeJob) -> None:
        make_job(base_model="another")
        assert _claim(database) is None
        assert _claim(database, base_models=()) is None

    def test_gives_none_when_nothing_is_queued(self, database: Database, running: JobRecord) -> None:
        assert _claim(database) is None

    def test_each_job_goes_to_exactly_one_of_many_threads(self, database: Database, make_job: MakeJob) -> None:
        made = {make_job().id for _ in range(20)}
        together = threading.Barrier(8)

        def take_all() -> list[str]:
            together.wait()
            taken = []
            while (job := _claim(database)) is not None:
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
            leases.release(session, running.id, running.token, outcome="died", now=201)
        again = _claim(database, now=202)
        assert again is not None
        assert (again.id, again.token, again.attempts) == (running.id, 2, 2)
        assert again.started_at == 200  # of the first attempt


def _take_all(url: str, taken: "Queue[list[str]]") -> None:
    database = Database(url)
    ids = []
    while (job := _claim(database)) is not None:
        ids.append(job.id)
    taken.put(ids)
    database.dispose()


class TestHeartbeat:
    def test_counts_up_and_keeps_the_progress_it_is_given(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.heartbeat(session, running.id, 1, {"step": 3}) is None
            assert leases.heartbeat(session, running.id, 1, None) is None
        job = _get(database, running.id)
        assert job.hb_seq == running.hb_seq + 2
        assert job.progress == {"step": 3}

    def test_tells_what_is_asked_of_the_job(self, database: Database, running: JobRecord) -> None:
        for steer, wish in ((steering.pause, Wish.PAUSE), (steering.cancel, Wish.CANCEL)):
            with database.write() as session:
                steer(session, running.id, now=210)
                assert leases.heartbeat(session, running.id, 1, None) is wish
                assert leases.hold(session, running.id, 1) is wish


# everything that a worker may write under its lease
ACTS: dict[str, Act] = {
    "heartbeat": lambda session, job_id, token: leases.heartbeat(session, job_id, token, {"step": 1}),
    "hold": leases.hold,
    "record_resume": lambda session, job_id, token: leases.record_resume(session, job_id, token, 1),
    "release": lambda session, job_id, token: leases.release(session, job_id, token, outcome="released", now=1),
    "cancel": lambda session, job_id, token: leases.finish(session, job_id, token, status=JobStatus.CANCELLED, now=1),
    "fail": lambda session, job_id, token: leases.finish(
        session, job_id, token, status=JobStatus.FAILED, error=("code", "message", None), now=1
    ),
    "publish": _publish,
    "add_checkpoint": lambda session, job_id, token: adapters.add_checkpoint(
        session, job_id, token, step=1, name="x", adapter_sha256=DIGEST, metrics={}, now=1
    ),
}


def _everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        return {
            table: [tuple(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in ("jobs", "attempts", "events", "checkpoints", "adapters")
        }


class TestFencing:
    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_a_stale_token_changes_nothing(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.release(session, running.id, 1, outcome="lost", now=201)
        assert _claim(database) is not None
        before = _everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, running.id, 1)
        assert _everything(database) == before

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_a_job_back_in_the_queue_is_nobodys(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.release(session, running.id, 1, outcome="lost", now=201)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, running.id, 1)

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_an_ended_job_takes_nothing_more(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.finish(session, running.id, 1, status=JobStatus.CANCELLED, now=201)
        before = _everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, running.id, 1)
        with pytest.raises(JobNotFound), database.write() as session:
            events.append(session, running.id, level=EventLevel.INFO, type=EventType.MESSAGE, message="late", now=202)
        assert _everything(database) == before

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_the_holder_may(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            act(session, running.id, 1)


class TestRelease:
    def test_puts_the_job_back_and_counts_the_attempt(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            jobs.mark_rung(session, [running.id], now=190)
            status = leases.release(session, running.id, 1, outcome="died", exit_signal=9, last_step=4, now=201)
        assert status is JobStatus.QUEUED
        job = _get(database, running.id)
        assert (job.status, job.attempts, job.owner, job.rung_at) == (JobStatus.QUEUED, 1, None, None)
        attempt = _attempt(database, running.id, 1)
        assert (attempt.outcome, attempt.exit_signal, attempt.last_step, attempt.ended_at) == ("died", 9, 4, 201)

    def test_of_a_worker_that_shuts_down_does_not_count(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            leases.release(session, running.id, 1, outcome=leases.RELEASED, now=201)
        assert _get(database, running.id).attempts == 0

    def test_ends_a_job_whose_cancellation_was_asked_for(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.cancel(session, running.id, now=200)
            assert leases.release(session, running.id, 1, outcome="released", now=201) is JobStatus.CANCELLED
        job = _get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.CANCELLED, 201)

    def test_for_a_pause_does_not_count_and_frees_the_lease(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            status = leases.release(session, running.id, 1, outcome=leases.PAUSED, last_step=7, now=201)
        assert status is JobStatus.PAUSED
        job = _get(database, running.id)
        assert (job.status, job.attempts, job.owner, job.finished_at) == (JobStatus.PAUSED, 0, None, None)
        attempt = _attempt(database, running.id, 1)
        assert (attempt.outcome, attempt.last_step, attempt.ended_at) == ("paused", 7, 201)
        assert _claim(database) is None

    def test_queues_a_job_whose_pause_was_withdrawn(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            steering.resume(session, running.id, now=200)
            assert leases.release(session, running.id, 1, outcome=leases.PAUSED, now=201) is JobStatus.QUEUED
        assert _get(database, running.id).attempts == 0
        assert "withdrawn" in _messages(database, running.id)[-1][2]

    @pytest.mark.parametrize(("outcome", "attempts"), [(leases.RELEASED, 0), ("trainer died", 1)])
    def test_however_it_came_about_pauses_a_job_that_is_to_be_paused(
        self, database: Database, running: JobRecord, outcome: str, attempts: int
    ) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            assert leases.release(session, running.id, 1, outcome=outcome, now=201) is JobStatus.PAUSED
        assert _get(database, running.id).attempts == attempts

    def test_cancels_rather_than_pauses(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            steering.cancel(session, running.id, now=200)
            assert leases.release(session, running.id, 1, outcome=leases.PAUSED, now=201) is JobStatus.CANCELLED


class TestFinish:
    def test_records_the_error_of_a_failed_job(self, database: Database, running: JobRecord) -> None:
        error = ("no_trained_tokens", "every weight is zero", "training_file")
        with database.write() as session:
            leases.finish(
                session, running.id, 1, status=JobStatus.FAILED, error=error, exit_signal=6, last_step=2, now=201
            )
        job = _get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.FAILED, 201)
        assert (job.error_code, job.error_message, job.error_param) == error
        assert _messages(database, running.id) == [(1, EventLevel.ERROR, "The job failed: every weight is zero")]
        attempt = _attempt(database, running.id, 1)
        assert (attempt.outcome, attempt.exit_signal, attempt.last_step) == ("failed", 6, 2)

    def test_cancels(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            leases.finish(session, running.id, 1, status=JobStatus.CANCELLED, now=201)
        assert _get(database, running.id).status is JobStatus.CANCELLED
        assert _messages(database, running.id) == [(1, EventLevel.INFO, "The job was cancelled")]

    def test_success_is_only_for_publish(self, database: Database, running: JobRecord) -> None:
        with pytest.raises(AssertionError), database.write() as session:
            leases.finish(session, running.id, 1, status=JobStatus.SUCCEEDED, now=201)


class TestPublish:
    def test_ends_the_job_with_its_adapter_and_its_last_event(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            _publish(session, running.id, 1)
        job = _get(database, running.id)
        assert (job.status, job.finished_at) == (JobStatus.SUCCEEDED, 300)
        assert (job.fine_tuned_model, job.trained_on, job.trained_tokens) == ("ft:tiny:local::1", "the completions", 5)
        assert job.result == {"loss": 0.5}
        with database.read() as session:
            adapter = adapters.get(session, "ft:tiny:local::1")
        assert (adapter.job_id, adapter.token, adapter.adapter_sha256) == (job.id, 1, DIGEST)
        assert (adapter.base_model, adapter.bytes) == ("tiny", 10)
        message = "The job has successfully completed. It trained on the completions"
        assert _messages(database, job.id) == [(1, EventLevel.INFO, message)]
        attempt = _attempt(database, job.id, 1)
        assert (attempt.outcome, attempt.last_step) == ("succeeded", 9)

    def test_is_all_or_nothing(self, database: Database, running: JobRecord, make_job: MakeJob) -> None:
        with database.write() as session:
            _publish(session, running.id, 1, name="ft:taken")
        make_job()
        second = _claim(database)
        assert second is not None
        before = _everything(database)
        with pytest.raises(IntegrityError), database.write() as session:
            _publish(session, second.id, 1, name="ft:taken")
        assert _everything(database) == before
        with database.write() as session:
            _publish(session, second.id, 1, name="ft:free")

    def test_of_two_at_once_happens_once(self, database: Database, running: JobRecord) -> None:
        together = threading.Barrier(4)

        def publish() -> bool:
            together.wait()
            try:
                with database.write() as session:
                    _publish(session, running.id, 1)
            except LeaseLost:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(publish) for _ in range(4)]
        assert sorted(each.result() for each in done) == [False, False, False, True]
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(AdapterRecord)) == 1
            assert session.scalar(select(func.count()).select_from(EventRecord)) == 1

    def test_wins_over_a_cancellation_that_comes_later(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.cancel(session, running.id, now=250)
            _publish(session, running.id, 1)
        with database.write() as session:
            assert steering.cancel(session, running.id, now=301).status is JobStatus.SUCCEEDED


def _lease(database: Database) -> Lease:
    with database.read() as session:
        (lease,) = leases.leases(session)
    return lease


class TestReclaim:
    def test_shows_the_running_jobs_only(self, database: Database, running: JobRecord, make_job: MakeJob) -> None:
        make_job()
        assert _lease(database) == Lease(running.id, 1, running.hb_seq, 1, False)

    def test_puts_a_silent_workers_job_back(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.reclaim(session, _lease(database), max_attempts=3, now=201) is JobStatus.QUEUED
        job = _get(database, running.id)
        assert (job.status, job.attempts, job.token) == (JobStatus.QUEUED, 1, 1)
        assert _attempt(database, running.id, 1).outcome == leases.LOST
        assert [level for _, level, _ in _messages(database, running.id)] == [EventLevel.WARN]

    def test_does_nothing_when_the_heartbeat_moved_on(self, database: Database, running: JobRecord) -> None:
        seen = _lease(database)
        with database.write() as session:
            leases.heartbeat(session, running.id, 1, None)
        before = _everything(database)
        with database.write() as session:
            assert leases.reclaim(session, seen, max_attempts=1, now=201) is None
        assert _everything(database) == before

    def test_does_nothing_when_another_worker_has_the_job(self, database: Database, running: JobRecord) -> None:
        seen = _lease(database)
        with database.write() as session:
            leases.release(session, running.id, 1, outcome="released", now=200)
        assert _claim(database) is not None
        with database.write() as session:
            assert leases.reclaim(session, seen, max_attempts=3, now=201) is None

    def test_does_nothing_when_the_job_has_ended(self, database: Database, running: JobRecord) -> None:
        seen = _lease(database)
        with database.write() as session:
            _publish(session, running.id, 1)
        with database.write() as session:
            assert leases.reclaim(session, seen, max_attempts=1, now=301) is None
        assert _get(database, running.id).status is JobStatus.SUCCEEDED

    def test_fails_a_job_whose_attempts_are_used_up(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            assert leases.reclaim(session, _lease(database), max_attempts=2, now=201) is JobStatus.QUEUED
        assert _claim(database) is not None
        with database.write() as session:
            assert leases.reclaim(session, _lease(database), max_attempts=2, now=202) is JobStatus.FAILED
        job = _get(database, running.id)
        assert (job.error_code, job.finished_at) == ("worker_lost", 202)
        assert job.error_message is not None
        assert "2 attempts" in job.error_message

    def test_ends_a_job_whose_cancellation_was_asked_for_meanwhile(
        self, database: Database, running: JobRecord
    ) -> None:
        seen = _lease(database)
        with database.write() as session:
            steering.cancel(session, running.id, now=201)
        with database.write() as session:
            assert leases.reclaim(session, seen, max_attempts=1, now=202) is JobStatus.CANCELLED

    def test_pauses_a_job_whose_pause_was_asked_for(self, database: Database, running: JobRecord) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            assert leases.reclaim(session, _lease(database), max_attempts=2, now=201) is JobStatus.PAUSED
        job = _get(database, running.id)
        assert (job.status, job.attempts, job.owner) == (JobStatus.PAUSED, 1, None)
        assert _attempt(database, running.id, 1).outcome == leases.LOST
        assert _claim(database) is None

    def test_fails_rather_than_pauses_a_job_whose_attempts_are_used_up(
        self, database: Database, running: JobRecord
    ) -> None:
        with database.write() as session:
            steering.pause(session, running.id, now=200)
            assert leases.reclaim(session, _lease(database), max_attempts=1, now=201) is JobStatus.FAILED

    def test_of_many_at_once_happens_once(self, database: Database, running: JobRecord) -> None:
        seen = _lease(database)
        together = threading.Barrier(4)

        def reclaim() -> JobStatus | None:
            together.wait()
            with database.write() as session:
                return leases.reclaim(session, seen, max_attempts=3, now=201)

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(reclaim) for _ in range(4)]
        assert Counter(each.result() for each in done) == {JobStatus.QUEUED: 1, None: 3}
        assert len(_messages(database, running.id)) == 1
