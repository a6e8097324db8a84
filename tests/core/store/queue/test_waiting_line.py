from core.store import jobs
from core.store.db import Database
from core.store.queue import claims, control, waiting_line
from core.store.queue.waiting_line import WaitingWork
from tests.core.store.conftest import MakeJob
from tests.harness.job_specs import make_estimate


def _claim(database: Database) -> str:
    with database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
    assert job is not None
    return job.id


class TestPlaces:
    def test_count_older_queued_jobs_of_any_page(self, database: Database, make_job: MakeJob) -> None:
        made = [make_job() for _ in range(6)]
        with database.read() as session:
            for page in (made, made[2:4], [made[1], made[4]], made[5:]):
                assert waiting_line.places(session, page) == {job.id: made.index(job) + 1 for job in page}

    def test_jobs_that_do_not_wait_have_none(self, database: Database, make_job: MakeJob) -> None:
        running, second, cancelled, fourth = (make_job().id for _ in range(4))
        assert _claim(database) == running
        with database.write() as session:
            control.cancel(session, cancelled, 150)
        with database.read() as session:
            page = [jobs.get(session, job_id) for job_id in (fourth, cancelled, second, running)]
            assert waiting_line.places(session, page) == {second: 1, fourth: 2}
            assert waiting_line.places(session, [page[1], page[3]]) == {}
            assert waiting_line.places(session, []) == {}


class TestSumWaiting:
    def test_adds_up_the_estimates_of_queued_jobs_alone(self, database: Database, make_job: MakeJob) -> None:
        with database.read() as session:
            assert waiting_line.sum_waiting(session) == WaitingWork(0, 0, 0.0)
        running = make_job(estimate=make_estimate(total_s=1000)).id
        make_job(estimate=make_estimate(total_s=1.5)), make_job(), make_job(estimate=make_estimate(total_s=2))
        assert _claim(database) == running
        with database.read() as session:
            assert waiting_line.sum_waiting(session) == WaitingWork(3, without_estimate=1, seconds=3.5)
            assert [job.id for job in waiting_line.list_running(session)] == [running]
