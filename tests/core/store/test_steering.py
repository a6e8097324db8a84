import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import FileInUse, JobHasEnded, JobNotFound
from core.jobs.spec import TERMINAL, JobStatus
from core.store import adapters, events, files, jobs, leases, steering
from core.store.db import Database, Session
from core.store.steering import Wish
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob

Steer = Callable[[Session, str, int], JobRecord]


def _claim(database: Database) -> JobRecord:
    with database.write() as session:
        job = leases.claim(session, owner="owner", host="host", pid=1, base_models=("tiny",), now=200)
    assert job is not None
    return job


def _do(database: Database, steer: Steer, job_id: str, now: int = 150) -> JobRecord:
    with database.write() as session:
        return steer(session, job_id, now)


def _reach_checkpoint(database: Database, job: JobRecord, step: int) -> None:
    with database.write() as session:
        adapters.add_checkpoint(
            session, job.id, job.token, step=step, name=f"{job.id}:{step}", adapter_sha256="a" * 64, metrics={}, now=1
        )


def _told(database: Database, job_id: str) -> list[tuple[str, object]]:
    with database.read() as session:
        return [(event.message, event.data) for event in events.list_after(session, job_id, 0, 100)]


@pytest.mark.parametrize("steer", [steering.cancel, steering.pause, steering.resume])
def test_a_job_that_is_not_there_is_not_found(database: Database, steer: Steer) -> None:
    with pytest.raises(JobNotFound):
        _do(database, steer, "ftjob-none")


@pytest.mark.parametrize(("steer", "word"), [(steering.pause, "paused"), (steering.resume, "resumed")])
@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_ended_job_can_neither_be_paused_nor_resumed(
    database: Database, make_job: MakeJob, steer: Steer, word: str, status: JobStatus
) -> None:
    job_id = make_job().id
    with database.write() as session:
        session.get_one(JobRecord, job_id).status = status
    with pytest.raises(JobHasEnded, match=rf"{job_id} has ended \({status}\) and cannot be {word}"):
        _do(database, steer, job_id)
    with database.read() as session:
        assert jobs.get(session, job_id).pause_requested_at is None


class TestCancel:
    def test_ends_a_queued_job_at_once(self, database: Database, make_job: MakeJob) -> None:
        with database.write() as session:
            job = steering.cancel(session, make_job().id, now=150)
            assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.CANCELLED, 150, 150)
            (event,) = events.list_after(session, job.id, 0, 10)
        assert "cancelled" in event.message

    def test_asks_where_the_job_runs_and_keeps_the_first_time(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        for now in (150, 160):
            with database.write() as session:
                job = steering.cancel(session, job_id, now=now)
                assert (job.status, job.cancel_requested_at) == (JobStatus.RUNNING, 150)

    def test_ends_a_paused_job_at_once(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _do(database, steering.pause, job_id)
        job = _do(database, steering.cancel, job_id, now=160)
        assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.CANCELLED, 160, 160)
        assert _told(database, job_id)[-1] == ("The job was cancelled while it was paused", None)

    def test_leaves_an_ended_job_as_it_is(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        with database.write() as session:
            leases.finish(session, job_id, 1, status=JobStatus.FAILED, error=("c", "m", None), now=140)
        with database.write() as session:
            job = steering.cancel(session, job_id, now=150)
        assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.FAILED, 140, None)

    def test_again_gives_the_same_answer(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        for now in (150, 160):
            with database.write() as session:
                assert steering.cancel(session, job_id, now=now).finished_at == 150
        with database.read() as session:
            assert len(events.list_after(session, job_id, 0, 10)) == 1

    def test_against_a_claim_exactly_one_wins(self, database: Database, make_job: MakeJob) -> None:
        for _ in range(10):
            job_id = make_job().id
            together = threading.Barrier(2)

            def cancel(job_id: str = job_id, together: threading.Barrier = together) -> JobStatus:
                together.wait()
                with database.write() as session:
                    return steering.cancel(session, job_id, now=150).status

            def claim(together: threading.Barrier = together) -> JobRecord | None:
                together.wait()
                with database.write() as session:
                    return leases.claim(session, owner="o", host="h", pid=1, base_models=("tiny",), now=200)

            with ThreadPoolExecutor(2) as pool:
                cancelled, claimed = pool.submit(cancel), pool.submit(claim)
            with database.read() as session:
                job = jobs.get(session, job_id)
            if claimed.result() is None:
                assert cancelled.result() is job.status is JobStatus.CANCELLED
            else:
                assert job.status is JobStatus.RUNNING
                assert job.cancel_requested_at == 150


class TestPause:
    def test_takes_a_queued_job_out_of_the_queue_at_once(self, database: Database, make_job: MakeJob) -> None:
        paused, other = make_job().id, make_job()
        job = _do(database, steering.pause, paused)
        assert (job.status, job.pause_requested_at, job.finished_at) == (JobStatus.PAUSED, 150, None)
        assert _told(database, paused) == [("The job was paused; it has no checkpoint yet", {"step": 0})]
        with database.read() as session:
            assert jobs.queue_position(session, job) is None
            assert jobs.queue_position(session, other) == 1
            assert jobs.due_bells(session, before=1000, limit=9) == [other.id]
        assert _claim(database).id == other.id

    def test_asks_where_the_job_runs_and_keeps_the_first_time(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        for now in (150, 160):
            job = _do(database, steering.pause, job_id, now)
            assert (job.status, job.pause_requested_at) == (JobStatus.RUNNING, 150)
            assert steering.is_pausing(job)
        assert _told(database, job_id) == []

    def test_again_gives_the_same_answer(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        for now in (150, 160):
            assert _do(database, steering.pause, job_id, now).pause_requested_at == 150
        assert len(_told(database, job_id)) == 1

    def test_does_not_outweigh_a_cancellation(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        _do(database, steering.cancel, job_id)
        assert not steering.is_pausing(_do(database, steering.pause, job_id))
        with database.write() as session:
            assert leases.heartbeat(session, job_id, 1, None) is Wish.CANCEL

    def test_against_a_claim_is_either_done_or_asked_for(self, database: Database, make_job: MakeJob) -> None:
        for _ in range(10):
            job_id = make_job().id
            together = threading.Barrier(2)

            def pause(job_id: str = job_id, together: threading.Barrier = together) -> None:
                together.wait()
                _do(database, steering.pause, job_id)

            def claim(together: threading.Barrier = together) -> JobRecord | None:
                together.wait()
                with database.write() as session:
                    return leases.claim(session, owner="o", host="h", pid=1, base_models=("tiny",), now=200)

            with ThreadPoolExecutor(2) as pool:
                paused, claimed = pool.submit(pause), pool.submit(claim)
            paused.result()
            with database.read() as session:
                job = jobs.get(session, job_id)
            assert job.status is (JobStatus.PAUSED if claimed.result() is None else JobStatus.RUNNING)
            assert job.pause_requested_at == 150


class TestResume:
    def test_queues_a_paused_job_at_its_old_place(self, database: Database, make_job: MakeJob) -> None:
        job_id, other = make_job().id, make_job().id
        with database.write() as session:
            jobs.mark_rung(session, [job_id], now=140)
        _do(database, steering.pause, job_id)
        job = _do(database, steering.resume, job_id, now=170)
        assert (job.status, job.pause_requested_at, job.rung_at) == (JobStatus.QUEUED, None, None)
        with database.read() as session:
            assert jobs.queue_position(session, job) == 1
            assert jobs.due_bells(session, before=100, limit=9) == [job_id, other]
        assert _claim(database).id == job_id

    def test_tells_the_step_of_the_newest_checkpoint(self, database: Database, make_job: MakeJob) -> None:
        running = _claim_of(database, make_job)
        for step in (4, 8):
            _reach_checkpoint(database, running, step)
        _do(database, steering.pause, running.id)
        with database.write() as session:
            leases.release(session, running.id, 1, outcome=leases.PAUSED, now=160)
        _do(database, steering.resume, running.id)
        assert _told(database, running.id) == [
            ("The job was paused; its newest checkpoint is of step 8", {"step": 8}),
            ("The job was resumed; its newest checkpoint is of step 8", {"step": 8}),
        ]

    def test_withdraws_a_pause_that_was_only_asked_for(self, database: Database, make_job: MakeJob) -> None:
        running = _claim_of(database, make_job)
        _do(database, steering.pause, running.id)
        job = _do(database, steering.resume, running.id)
        assert (job.status, job.pause_requested_at) == (JobStatus.RUNNING, None)
        with database.write() as session:
            assert leases.heartbeat(session, running.id, 1, None) is None

    @pytest.mark.parametrize("is_running", [False, True])
    def test_leaves_a_job_that_is_not_paused_as_it_is(
        self, database: Database, make_job: MakeJob, is_running: bool
    ) -> None:
        job_id = make_job().id
        if is_running:
            _claim(database)
        job = _do(database, steering.resume, job_id)
        assert job.status is (JobStatus.RUNNING if is_running else JobStatus.QUEUED)
        assert _told(database, job_id) == []


def _claim_of(database: Database, make_job: MakeJob) -> JobRecord:
    make_job()
    return _claim(database)


def test_a_file_of_a_paused_job_is_in_use(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    _do(database, steering.pause, job.id)
    with pytest.raises(FileInUse, match=job.id), database.write() as session:
        files.delete(session, job.training_file_id)


def test_the_checkpoints_of_a_paused_job_can_be_used_until_it_is_cancelled(
    database: Database, make_job: MakeJob
) -> None:
    running = _claim_of(database, make_job)
    _reach_checkpoint(database, running, 4)
    _do(database, steering.pause, running.id)
    with database.write() as session:
        leases.release(session, running.id, 1, outcome=leases.PAUSED, now=160)
        assert adapters.find_digest(session, f"{running.id}:4") == ("tiny", "a" * 64)
    _do(database, steering.cancel, running.id)
    with database.read() as session:
        assert adapters.find_digest(session, f"{running.id}:4") is None
