import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import InvalidParameter, JobNotFound
from core.jobs.events import EventLevel, EventType, JobEvent
from core.store import events
from core.store.db import Database, Session
from core.store.tables import EventRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import events_of


def _append(session: Session, job_id: str, message: str = "hello") -> EventRecord:
    return events.append(session, job_id, JobEvent(message, type=EventType.METRICS, data={"step": 1}), 100)


def test_an_event_comes_back_as_it_was_appended(database: Database, make_job: MakeJob) -> None:
    job_id = make_job().id
    with database.write() as session:
        appended = _append(session, job_id)
    (event,) = events_of(database, job_id)
    assert event.id == appended.id
    assert event.id.startswith("ftevent-")
    assert (event.seq, event.level, event.type) == (1, EventLevel.INFO, EventType.METRICS)
    assert (event.message, event.data, event.created_at) == ("hello", {"step": 1}, 100)


def test_numbers_have_no_gaps_and_no_duplicates_under_concurrency(database: Database, make_job: MakeJob) -> None:
    job_id = make_job().id
    threads, each = 6, 10
    together = threading.Barrier(threads)

    def append() -> None:
        together.wait()
        for number in range(each):
            try:
                with database.write() as session:
                    _append(session, job_id)
                    if number % 3 == 0:
                        raise ZeroDivisionError  # numbers of what is rolled back are given again
            except ZeroDivisionError:
                pass

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(append) for _ in range(threads)]:
            done.result()
    assert [event.seq for event in events_of(database, job_id)] == list(range(1, threads * 6 + 1))


def test_each_job_counts_for_itself(database: Database, make_job: MakeJob) -> None:
    first, second = make_job().id, make_job().id
    with database.write() as session:
        assert [_append(session, job_id).seq for job_id in (first, second, first)] == [1, 1, 2]


def test_a_job_that_is_not_there_takes_no_events(database: Database) -> None:
    with pytest.raises(JobNotFound), database.write() as session:
        _append(session, "ftjob-none")


def test_pages_go_from_the_newest_to_the_oldest(database: Database, make_job: MakeJob) -> None:
    job_id, other = make_job().id, make_job().id
    with database.write() as session:
        for number in range(5):
            _append(session, job_id, str(number))
            _append(session, other)
    with database.read() as session:
        first, more = events.list_page(session, job_id, after=None, limit=3)
        second, more_still = events.list_page(session, job_id, after=first[-1].id, limit=3)
    assert [event.message for event in (*first, *second)] == ["4", "3", "2", "1", "0"]
    assert (more, more_still) == (True, False)


def test_another_jobs_event_is_no_place_to_go_on_from(database: Database, make_job: MakeJob) -> None:
    job_id, other = make_job().id, make_job().id
    with database.write() as session:
        elsewhere = _append(session, other)
    with pytest.raises(InvalidParameter, match="after"), database.read() as session:
        events.list_page(session, job_id, after=elsewhere.id, limit=3)
