import pytest
from sqlalchemy import update

from core.jobs.events import JobEvent
from core.jobs.status import NEXT, JobStatus
from core.store import jobs
from core.store.db import Database
from core.store.queue.transitions import move
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import events_of


@pytest.mark.parametrize("to", JobStatus)
@pytest.mark.parametrize("present", JobStatus)
def test_a_job_moves_only_where_the_table_of_transitions_allows(
    database: Database, make_job: MakeJob, present: JobStatus, to: JobStatus
) -> None:
    job_id = make_job().id
    with database.write() as session:
        session.execute(update(JobRecord).values(status=present))
    with database.write() as session:
        moved = move(session, job_id, to, JobEvent("moved"), 200)
    assert moved is (to in NEXT[present])
    with database.read() as session:
        assert jobs.get(session, job_id).status is (to if moved else present)
    assert [event.message for event in events_of(database, job_id)] == ["moved"] * moved
