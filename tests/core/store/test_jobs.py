import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from core.errors import FileNotStored, IdempotencyInProgress, JobNotFound
from core.jobs.spec import JobSpec
from core.jobs.status import JobStatus
from core.store import files, jobs
from core.store.db import Database
from core.store.jobs import IdempotencyKey, NewJob
from core.store.queue import claims, control
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeFile, MakeJob, job_spec


def _claim(database: Database) -> JobRecord:
    with database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
    assert job is not None
    return job


class TestCreate:
    def test_queues_a_job_whose_specification_comes_back_whole(
        self, database: Database, make_file: MakeFile, make_job: MakeJob
    ) -> None:
        file = make_file()
        job = make_job(file=file, metadata={"team": "a"})
        with database.read() as session:
            stored = jobs.get(session, job.id)
        assert JobSpec.model_validate(stored.spec) == job_spec(file)
        assert (stored.status, stored.token, stored.attempts, stored.created_at) == (JobStatus.QUEUED, 0, 0, 100)
        assert stored.training_file_id == file.id
        assert stored.job_metadata == {"team": "a"}

    def test_the_same_specification_has_the_same_digest(self, make_file: MakeFile, make_job: MakeJob) -> None:
        file = make_file()
        assert make_job(file=file).spec_sha256 == make_job(file=file).spec_sha256
        assert make_job(file=file).spec_sha256 != make_job(file=file, base_model="another").spec_sha256

    def test_a_file_deleted_meanwhile_is_refused(
        self, database: Database, make_file: MakeFile, make_job: MakeJob
    ) -> None:
        file = make_file()
        with database.write() as session:
            files.delete(session, file.id)
        with pytest.raises(FileNotStored):
            make_job(file=file)


def test_a_job_that_is_not_there_is_not_found(database: Database) -> None:
    with pytest.raises(JobNotFound), database.read() as session:
        jobs.get(session, "ftjob-none")


class TestListPage:
    def test_walks_from_the_newest_to_the_oldest(self, database: Database, make_job: MakeJob) -> None:
        made = [make_job().id for _ in range(5)]
        seen: list[str] = []
        has_more = True
        while has_more:
            with database.read() as session:
                page, has_more = jobs.list_page(session, after=seen[-1] if seen else None, limit=2)
            assert len(page) == (2 if has_more else 1)
            seen += [job.id for job in page]
        assert seen == made[::-1]

    def test_a_page_that_is_exactly_full_is_the_last(self, database: Database, make_job: MakeJob) -> None:
        make_job(), make_job()
        with database.read() as session:
            page, has_more = jobs.list_page(session, after=None, limit=2)
        assert (len(page), has_more) == (2, False)

    @pytest.mark.parametrize("key", ["team", 'a "quoted" key', "a.b", "$", "schlüssel", "it's", "back\\slash", ""])
    def test_keeps_to_the_jobs_that_carry_all_pairs(self, database: Database, make_job: MakeJob, key: str) -> None:
        wanted = make_job(metadata={key: "ä", "other": "1"})
        make_job(metadata={key: "b", "other": "1"})
        make_job(metadata={"other": "1"})
        make_job()
        with database.read() as session:
            page, _ = jobs.list_page(session, after=None, limit=10, metadata={key: "ä", "other": "1"})
            assert [job.id for job in page] == [wanted.id]
            page, _ = jobs.list_page(session, after=None, limit=10, metadata={"other": "1"})
            assert len(page) == 3


class TestFindRecentDuplicate:
    def test_finds_the_newest_of_the_same_caller_and_request(self, database: Database, make_job: MakeJob) -> None:
        make_job(request_sha256="1" * 64)
        newest = make_job(request_sha256="1" * 64)
        make_job(request_sha256="1" * 64, caller="another")
        make_job(request_sha256="2" * 64)
        with database.read() as session:
            found = jobs.find_recent_duplicate(session, "someone", "1" * 64, since=100)
            assert found is not None
            assert found.id == newest.id
            assert jobs.find_recent_duplicate(session, "someone", "1" * 64, since=101) is None
            assert jobs.find_recent_duplicate(session, "someone", "3" * 64, since=0) is None

    def test_a_cancelled_job_may_be_posted_again(self, database: Database, make_job: MakeJob) -> None:
        job = make_job(request_sha256="1" * 64)
        with database.write() as session:
            control.cancel(session, job.id, now=101)
            assert jobs.find_recent_duplicate(session, "someone", "1" * 64, since=0) is None


class TestIdempotency:
    def _remember(self, database: Database, job: JobRecord, caller: str = "someone", route: str = "jobs") -> None:
        with database.write() as session:
            key = IdempotencyKey(caller, route, "k")
            jobs.remember_idempotent(session, key, body_sha256="b" * 64, job_id=job.id, now=1)

    def test_a_key_belongs_to_its_caller_and_route(self, database: Database, make_job: MakeJob) -> None:
        job, other = make_job(), make_job()
        self._remember(database, job)
        self._remember(database, other, caller="another")
        self._remember(database, other, route="files")
        with database.read() as session:
            found = jobs.find_idempotent(session, IdempotencyKey("someone", "jobs", "k"))
            assert found is not None
            assert (found.job_id, found.body_sha256) == (job.id, "b" * 64)
            assert jobs.find_idempotent(session, IdempotencyKey("someone", "jobs", "another")) is None

    def test_the_second_of_two_at_once_makes_no_job(self, database: Database, make_job: MakeJob) -> None:
        template, key = make_job(), IdempotencyKey("someone", "jobs", "k")
        together = threading.Barrier(4)

        def post() -> bool:
            together.wait()
            try:
                with database.write() as session:
                    if jobs.find_idempotent(session, key) is not None:
                        return False
                    new = NewJob("someone", JobSpec.model_validate(template.spec), {}, "0" * 64)
                    job = jobs.create(session, new, 1)
                    jobs.remember_idempotent(session, key, body_sha256="b", job_id=job.id, now=1)
            except IdempotencyInProgress:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(post) for _ in range(4)]
        assert sorted(each.result() for each in done) == [False, False, False, True]
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(JobRecord)) == 2


class TestNotifications:
    def test_are_due_for_queued_jobs_not_notified_of_lately(self, database: Database, make_job: MakeJob) -> None:
        claimed, never, early, late = (make_job().id for _ in range(4))
        assert _claim(database).id == claimed
        with database.write() as session:
            jobs.mark_notified(session, [early], now=10)
            jobs.mark_notified(session, [late], now=20)
        with database.read() as session:
            assert jobs.list_to_notify(session, before=20, limit=10) == [never, early]
            assert jobs.list_to_notify(session, before=20, limit=1) == [never]

    def test_marking_leaves_jobs_that_wait_no_longer(self, database: Database, make_job: MakeJob) -> None:
        job_id = make_job().id
        with database.write() as session:
            control.cancel(session, job_id, now=150)
            jobs.mark_notified(session, [job_id], now=160)
            jobs.mark_notified(session, [], now=160)
        with database.read() as session:
            assert jobs.get(session, job_id).notified_at is None
