"""Experiments are made with their first jobs or not at all, found, and cancelled with all that they began."""

import pytest

from core.errors import ExperimentNotFound, FileNotStored, IdempotencyInProgress
from core.experiments.status import ExperimentStatus
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store import files, jobs
from core.store.db import Database
from core.store.experiments import records
from tests.core.store.conftest import MakeFile
from tests.core.store.experiments.experimenting import create, end_runs, get, jobs_of, plan_on, step


def test_of_a_file_that_is_gone_neither_experiment_nor_job_is_made(database: Database, make_file: MakeFile) -> None:
    file, judged = make_file(), make_file()
    judging = plan_on(judged).judging
    with database.write() as session:
        files.delete(session, judged.id)
    with pytest.raises(FileNotStored):
        create(database, plan_on(file, judging=judging))
    with database.read() as session:
        assert records.list_page(session, after=None, limit=9) == ([], False)
        assert jobs.list_page(session, after=None, limit=9) == ([], False)


def test_the_newest_come_first(database: Database, make_file: MakeFile) -> None:
    made = [create(database, plan_on(make_file())).id for _ in range(3)]
    with database.read() as session:
        first, has_more = records.list_page(session, after=None, limit=2)
        rest, is_all = records.list_page(session, after=first[-1].id, limit=2)
        assert list(records.list_running(session)) == made
    assert ([one.id for one in (*first, *rest)], has_more, is_all) == (made[::-1], True, False)


def test_a_key_is_used_once_by_a_caller(database: Database, make_file: MakeFile) -> None:
    plan = plan_on(make_file())
    made = create(database, plan, key="k")
    with pytest.raises(IdempotencyInProgress):
        create(database, plan, key="k")
    create(database, plan)
    create(database, plan)
    with database.read() as session:
        found = records.find_idempotent(session, "someone", "k")
        assert found is not None
        assert found.id == made.id
        assert records.find_idempotent(session, "another", "k") is None


def test_cancelling_cancels_all_that_has_not_ended(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    with database.write() as session:
        cancelled = records.cancel(session, record.id, 150)
    assert (cancelled.status, cancelled.finished_at) == (ExperimentStatus.CANCELLED, 150)
    assert {job.status for job in jobs_of(database, record.id)} == {JobStatus.CANCELLED}
    assert step(database, record.id).version == cancelled.version
    with database.write() as session:
        assert records.cancel(session, record.id, 160).finished_at == 150


def test_cancelling_cancels_the_judging(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database)
    evaluation_id = step(database, record.id).judging_id
    assert evaluation_id is not None
    with database.write() as session:
        records.cancel(session, record.id, 150)
    with database.read() as session:
        assert jobs.get(session, evaluation_id, JobKind.EVALUATION).status is JobStatus.CANCELLED
    assert {job.status for job in jobs_of(database, record.id)} == {JobStatus.SUCCEEDED}
    assert step(database, record.id).status is ExperimentStatus.CANCELLED


def test_one_that_is_not_there_is_not_found(database: Database) -> None:
    with pytest.raises(ExperimentNotFound):
        get(database, "exp-1")
    with pytest.raises(ExperimentNotFound), database.write() as session:
        records.cancel(session, "exp-1", 1)
