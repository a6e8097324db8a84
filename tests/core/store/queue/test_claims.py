"""Queued jobs that workers take, one or several, however many do so at once."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue

from sqlalchemy import func, select

from core.jobs.attempt import AttemptEnd
from core.jobs.status import JobStatus
from core.store.db import Database
from core.store.queue import leases
from core.store.queue.leases import Lease
from core.store.tables import AttemptRecord, JobRecord
from tests.core.store.conftest import MakeFile, MakeJob
from tests.core.store.leased import attempt_of, claim, claim_beside, get


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
