import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from core.jobs.status import TERMINAL, JobStatus
from core.store import jobs
from core.store.db import Database
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize(
    "assignment", ["status = 'queued'", "spec = '{}'", "token = token + 1", "trained_tokens = 1", "caller = 'x'"]
)
def test_the_row_of_an_ended_job_cannot_be_changed_by_any_statement(
    database: Database, make_job: MakeJob, status: JobStatus, assignment: str
) -> None:
    job_id = make_job().id
    with database.write() as session:
        session.execute(update(JobRecord).values(status=status))
    with pytest.raises(DBAPIError, match="has ended"), database.write() as session:
        session.execute(text(f"UPDATE jobs SET {assignment}"))
    with database.read() as session:
        job = jobs.get(session, job_id)
    assert (job.status, job.token, job.trained_tokens, job.caller) == (status, 0, None, "someone")
    assert job.spec != {}


@pytest.mark.parametrize("status", sorted(set(JobStatus) - TERMINAL))
def test_the_row_of_a_job_that_goes_on_can_be_changed(database: Database, make_job: MakeJob, status: JobStatus) -> None:
    job_id = make_job().id
    with database.write() as session:
        session.execute(update(JobRecord).values(status=status))
    with database.write() as session:
        session.execute(text("UPDATE jobs SET caller = 'x'"))
    with database.read() as session:
        assert jobs.get(session, job_id).caller == "x"


def test_a_status_that_does_not_exist_is_refused(database: Database, make_job: MakeJob) -> None:
    make_job()
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text("UPDATE jobs SET status = 'pausing'"))
