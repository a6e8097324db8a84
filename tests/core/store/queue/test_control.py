import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import FileInUse, JobHasEnded, JobNotFound
from core.jobs.attempt import AttemptEnd, JobError, StoredAdapter, StoredCheckpoint
from core.jobs.status import TERMINAL, JobStatus
from core.store import adapters, files, jobs
from core.store.adapters import ServedAdapter
from core.store.db import Database, Session
from core.store.queue import claims, control, leases, waiting_line
from core.store.queue.control import RequestedAction
from core.store.queue.leases import Lease
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import events_of

Act = Callable[[Session, str, int], JobRecord]


def _claim(database: Database) -> JobRecord:
    with database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
    assert job is not None
    return job


def _do(database: Database, act: Act, job_id: str, now: int = 150) -> JobRecord:
    with database.write() as session:
        return act(session, job_id, now)


def _reach_checkpoint(database: Database, job: JobRecord, step: int) -> None:
    with database.write() as session:
        adapters.add_checkpoint(
            session,
            Lease(job.id, job.token),
            StoredCheckpoint(step, f"{job.id}:{step}", StoredAdapter("a" * 64, 10, ()), {}),
            1,
        )


def _messages(database: Database, job_id: str) -> list[tuple[str, object]]:
    return [(event.message, event.data) for event in events_of(database, job_id)]


@pytest.mark.parametrize("act", [control.cancel, control.pause, control.resume])
def test_a_job_that_is_not_there_is_not_found(database: Database, act: Act) -> None:
    with pytest.raises(JobNotFound):
        _do(database, act, "ftjob-none")


@pytest.mark.parametrize(("act", "word"), [(control.pause, "paused"), (control.resume, "resumed")])
@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_ended_job_can_neither_be_paused_nor_resumed(
    database: Database, make_job: MakeJob, act: Act, word: str, status: JobStatus
) -> None:
    job_id = make_job().id
    with database.write() as session:
        session.get_one(JobRecord, job_id).status = status
    with pytest.raises(JobHasEnded, match=rf"{job_id} has ended \({status}\) and cannot be {word}"):
        _do(database, act, job_id)
    with database.read() as session:
        assert jobs.get(session, job_id).pause_requested_at is None


class TestCancel:
    def test_ends_a_queued_job_at_once(self, database: Database, make_job: MakeJob) -> None:
        with database.write() as session:
            job = control.cancel(session, make_job().id, now=150)
            assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.CANCELLED, 150, 150)
        (event,) = events_of(database, job.id)
        assert "cancelled" in event.message

    def test_asks_where_the_job_runs_and_keeps_the_first_time(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        for now in (150, 160):
            with database.write() as session:
                job = control.cancel(session, job_id, now=now)
                assert (job.status, job.cancel_requested_at) == (JobStatus.RUNNING, 150)

    def test_ends_a_paused_job_at_once(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _do(database, control.pause, job_id)
        job = _do(database, control.cancel, job_id, now=160)
        assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.CANCELLED, 160, 160)
        assert _messages(database, job_id)[-1] == ("The job was cancelled while it was paused", None)

    def test_leaves_an_ended_job_as_it_is(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        with database.write() as session:
            leases.fail(session, Lease(job_id, 1), JobError("c", "m"), AttemptEnd(), 140)
        with database.write() as session:
            job = control.cancel(session, job_id, now=150)
        assert (job.status, job.finished_at, job.cancel_requested_at) == (JobStatus.FAILED, 140, None)

    def test_again_gives_the_same_answer(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        for now in (150, 160):
            with database.write() as session:
                assert control.cancel(session, job_id, now=now).finished_at == 150
        assert len(events_of(database, job_id)) == 1

    def test_against_a_claim_exactly_one_wins(self, database: Database, make_job: MakeJob) -> None:
        for _ in range(10):
            job_id = make_job().id
            together = threading.Barrier(2)

            def cancel(job_id: str = job_id, together: threading.Barrier = together) -> JobStatus:
                together.wait()
                with database.write() as session:
                    return control.cancel(session, job_id, now=150).status

            def claim(together: threading.Barrier = together) -> JobRecord | None:
                together.wait()
                with database.write() as session:
                    return claims.claim(session, claims.WorkerIdentity("o", "h", 1), ("tiny",), 200)

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
        job = _do(database, control.pause, paused)
        assert (job.status, job.pause_requested_at, job.finished_at) == (JobStatus.PAUSED, 150, None)
        assert _messages(database, paused) == [("The job was paused; it has no checkpoint yet", {"step": 0})]
        with database.read() as session:
            assert waiting_line.places(session, [job, other]) == {other.id: 1}
            assert jobs.list_to_notify(session, before=1000, limit=9) == [other.id]
        assert _claim(database).id == other.id

    def test_asks_where_the_job_runs_and_keeps_the_first_time(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        for now in (150, 160):
            job = _do(database, control.pause, job_id, now)
            assert (job.status, job.pause_requested_at) == (JobStatus.RUNNING, 150)
            assert control.is_pausing(job)
        assert _messages(database, job_id) == []

    def test_again_gives_the_same_answer(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        for now in (150, 160):
            assert _do(database, control.pause, job_id, now).pause_requested_at == 150
        assert len(_messages(database, job_id)) == 1

    def test_does_not_outweigh_a_cancellation(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        _claim(database)
        _do(database, control.cancel, job_id)
        assert not control.is_pausing(_do(database, control.pause, job_id))
        with database.write() as session:
            assert leases.heartbeat(session, Lease(job_id, 1), None) is RequestedAction.CANCEL

    def test_against_a_claim_is_either_done_or_asked_for(self, database: Database, make_job: MakeJob) -> None:
        for _ in range(10):
            job_id = make_job().id
            together = threading.Barrier(2)

            def pause(job_id: str = job_id, together: threading.Barrier = together) -> None:
                together.wait()
                _do(database, control.pause, job_id)

            def claim(together: threading.Barrier = together) -> JobRecord | None:
                together.wait()
                with database.write() as session:
                    return claims.claim(session, claims.WorkerIdentity("o", "h", 1), ("tiny",), 200)

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
            jobs.mark_notified(session, [job_id], now=140)
        _do(database, control.pause, job_id)
        job = _do(database, control.resume, job_id, now=170)
        assert (job.status, job.pause_requested_at, job.notified_at) == (JobStatus.QUEUED, None, None)
        with database.read() as session:
            assert waiting_line.places(session, [job]) == {job.id: 1}
            assert jobs.list_to_notify(session, before=100, limit=9) == [job_id, other]
        assert _claim(database).id == job_id

    def test_tells_the_step_of_the_newest_checkpoint(self, database: Database, make_job: MakeJob) -> None:
        running = _claim_of(database, make_job)
        for step in (4, 8):
            _reach_checkpoint(database, running, step)
        _do(database, control.pause, running.id)
        with database.write() as session:
            leases.release(session, Lease(running.id, 1), leases.PAUSED, AttemptEnd(), 160)
        _do(database, control.resume, running.id)
        assert _messages(database, running.id) == [
            ("The job was paused; its newest checkpoint is of step 8", {"step": 8}),
            ("The job was resumed; its newest checkpoint is of step 8", {"step": 8}),
        ]

    def test_withdraws_a_pause_that_was_only_asked_for(self, database: Database, make_job: MakeJob) -> None:
        running = _claim_of(database, make_job)
        _do(database, control.pause, running.id)
        job = _do(database, control.resume, running.id)
        assert (job.status, job.pause_requested_at) == (JobStatus.RUNNING, None)
        with database.write() as session:
            assert leases.heartbeat(session, Lease(running.id, 1), None) is None

    @pytest.mark.parametrize("is_running", [False, True])
    def test_leaves_a_job_that_is_not_paused_as_it_is(
        self, database: Database, make_job: MakeJob, is_running: bool
    ) -> None:
        job_id = make_job().id
        if is_running:
            _claim(database)
        job = _do(database, control.resume, job_id)
        assert job.status is (JobStatus.RUNNING if is_running else JobStatus.QUEUED)
        assert _messages(database, job_id) == []


def _claim_of(database: Database, make_job: MakeJob) -> JobRecord:
    make_job()
    return _claim(database)


def test_a_file_of_a_paused_job_is_in_use(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    _do(database, control.pause, job.id)
    with pytest.raises(FileInUse, match=job.id), database.write() as session:
        files.delete(session, job.training_file_id)


def test_the_checkpoints_of_a_paused_job_can_be_used_and_outlive_its_cancellation(
    database: Database, make_job: MakeJob
) -> None:
    running = _claim_of(database, make_job)
    _reach_checkpoint(database, running, 4)
    _do(database, control.pause, running.id)
    with database.write() as session:
        leases.release(session, Lease(running.id, 1), leases.PAUSED, AttemptEnd(), 160)
        assert adapters.find_served(session, f"{running.id}:4") == ServedAdapter("tiny", "a" * 64)
    _do(database, control.cancel, running.id)
    with database.read() as session:
        assert adapters.find_served(session, f"{running.id}:4") == ServedAdapter("tiny", "a" * 64)
