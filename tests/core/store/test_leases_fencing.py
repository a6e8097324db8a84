"""Whoever has lost a lease changes nothing, whatever a worker may write under one."""

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import JobNotFound
from core.jobs.events import EventLevel, EventType
from core.jobs.spec import JobStatus
from core.store import adapters, events, leases
from core.store.db import Database, Session
from core.store.leases import LeaseLost
from core.store.tables import JobRecord
from tests.core.store.leased import DIGEST, claim, everything, publish

Act = Callable[[Session, str, int], Any]

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
    "publish": publish,
    "add_checkpoint": lambda session, job_id, token: adapters.add_checkpoint(
        session, job_id, token, step=1, name="x", adapter_sha256=DIGEST, metrics={}, now=1
    ),
}


class TestFencing:
    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_a_stale_token_changes_nothing(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.release(session, running.id, 1, outcome="lost", now=201)
        assert claim(database) is not None
        before = everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, running.id, 1)
        assert everything(database) == before

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
        before = everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, running.id, 1)
        with pytest.raises(JobNotFound), database.write() as session:
            events.append(session, running.id, level=EventLevel.INFO, type=EventType.MESSAGE, message="late", now=202)
        assert everything(database) == before

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_the_holder_may(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            act(session, running.id, 1)
