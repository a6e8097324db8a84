"""Whoever has lost a lease changes nothing, whatever a worker may write under one."""

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import JobNotFound
from core.jobs.attempt import AttemptEnd, JobError, StoredAdapter, StoredCheckpoint
from core.jobs.events import JobEvent
from core.store import adapters, events
from core.store.db import Database, Session
from core.store.queue import leases
from core.store.queue.leases import Lease, LeaseLost
from core.store.tables import JobRecord
from tests.core.store.leased import DIGEST, claim, everything, publish

Act = Callable[[Session, Lease], Any]

# everything that a worker may write under its lease
ACTS: dict[str, Act] = {
    "heartbeat": lambda session, lease: leases.heartbeat(session, lease, {"step": 1}),
    "hold": leases.hold,
    "record_resume": lambda session, lease: leases.record_resume(session, lease, 1),
    "release": lambda session, lease: leases.release(session, lease, "released", AttemptEnd(), 1),
    "cancel": lambda session, lease: leases.cancel(session, lease, AttemptEnd(), 1),
    "fail": lambda session, lease: leases.fail(session, lease, JobError("code", "message"), AttemptEnd(), 1),
    "publish": publish,
    "add_checkpoint": lambda session, lease: adapters.add_checkpoint(
        session, lease, StoredCheckpoint(1, "x", StoredAdapter(DIGEST, 10, ()), {}), 1
    ),
}


class TestFencing:
    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_a_stale_token_changes_nothing(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.release(session, Lease(running.id, 1), "lost", AttemptEnd(), 201)
        assert claim(database) is not None
        before = everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, Lease(running.id, 1))
        assert everything(database) == before

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_a_job_back_in_the_queue_is_nobodys(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.release(session, Lease(running.id, 1), "lost", AttemptEnd(), 201)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, Lease(running.id, 1))

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_an_ended_job_takes_nothing_more(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            leases.cancel(session, Lease(running.id, 1), AttemptEnd(), 201)
        before = everything(database)
        with pytest.raises(LeaseLost), database.write() as session:
            act(session, Lease(running.id, 1))
        with pytest.raises(JobNotFound), database.write() as session:
            events.append(session, running.id, JobEvent("late"), 202)
        assert everything(database) == before

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
    def test_the_holder_may(self, database: Database, running: JobRecord, act: Act) -> None:
        with database.write() as session:
            act(session, Lease(running.id, 1))
