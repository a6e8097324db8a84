"""An attempt keeps its lease while its worker waits for a slow disk or store, and only as long as it works."""

import threading
import time
from typing import Any

import pytest

from core.dispatch.sweeper import Sweeper
from core.jobs.status import JobStatus
from core.store.queue import claims
from core.store.queue.leases import Lease
from tests.harness.fake_clock import FakeClock
from tests.harness.faulty_store import SlowStore
from tests.worker.conftest import BASE_MODEL, NOW, Home
from tests.worker.jobs.running import own_trainers, run_on, wait_for
from tests.worker.jobs.test_runner import take_away
from worker.jobs.claim import Claim
from worker.jobs.heartbeat import LeaseHeartbeat


class SilentNotifier:
    def notify(self, job_id: str) -> bool:
        return True

    def reaches_broker(self) -> bool:
        return True


def outlive_the_lease(home: Home, job_id: str) -> None:
    """Let three whole leases pass for a sweeper, and a heartbeat within each half of one."""
    clock = FakeClock()
    sweeper = Sweeper(home.database, home.blobs, SilentNotifier(), home.settings, clock)
    for _ in range(6):
        sweeper.sweep_once()
        seen = home.job(job_id).hb_seq
        wait_for(lambda seen=seen: home.job(job_id).hb_seq > seen)  # type: ignore[misc]
        clock.now_s += home.settings.lease_ttl_s / 2
    sweeper.sweep_once()


class TestSlowStore:
    @pytest.mark.parametrize(
        ("slow", "behaviour"),
        [
            pytest.param("fetch", {"steps": 1}, id="copying files in"),
            pytest.param("put_file", {"steps": 2, "checkpoint_every": 1}, id="storing a checkpoint"),
            pytest.param("put_file", {"steps": 1, "checkpoint_every": 9}, id="publishing"),
        ],
    )
    def test_costs_no_attempt(self, home: Home, slow: str, behaviour: dict[str, Any]) -> None:
        store = SlowStore(home.blobs, slow)
        job_id = home.queue(**behaviour)
        thread = threading.Thread(target=run_on, args=(home.runtime(blobs=store),))
        thread.start()
        try:
            assert store.is_waiting.wait(30)
            outlive_the_lease(home, job_id)
        finally:
            store.may_go_on.set()
            thread.join()

        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert [attempt.outcome for attempt in home.attempts(job_id)] == ["succeeded"]

    def test_of_a_worker_that_lost_its_lease_does_not_keep_the_trainer_alive(self, home: Home) -> None:
        store = SlowStore(home.blobs, "put_file")
        job_id = home.queue(steps=1000, step_s=0.05, checkpoint_every=1)
        thread = threading.Thread(target=run_on, args=(home.runtime(blobs=store),))
        thread.start()
        try:
            assert store.is_waiting.wait(30)
            assert len(own_trainers()) == 1
            take_away(home)
            wait_for(lambda: not own_trainers())  # while the store still waits
        finally:
            store.may_go_on.set()
            thread.join()

        assert home.job(job_id).status is JobStatus.QUEUED
        assert [attempt.outcome for attempt in home.attempts(job_id)] == ["lost"]
        assert home.checkpoints(job_id) == []

    def test_of_a_worker_that_lost_its_lease_while_it_published_publishes_once(self, home: Home) -> None:
        store = SlowStore(home.blobs, "put_file")
        job_id = home.queue(steps=2, checkpoint_every=9)
        thread = threading.Thread(target=run_on, args=(home.runtime(blobs=store),))
        thread.start()
        try:
            assert store.is_waiting.wait(30)
            take_away(home)
        finally:
            store.may_go_on.set()
            thread.join()
        assert (home.job(job_id).status, home.adapters(job_id)) == (JobStatus.QUEUED, [])

        run_on(home.runtime())
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert [adapter.token for adapter in home.adapters(job_id)] == [2]
        steps = [event.data["step"] for event in home.events(job_id) if event.type == "metrics" and event.data]
        assert steps == [1, 2]  # trained once


class TestHungWork:
    def test_is_given_no_more_heartbeats_and_its_trainer_is_killed(self, home: Home) -> None:
        job_id = home.queue()
        with home.database.write() as session:
            job = claims.claim(session, claims.WorkerIdentity("me", "here", 1), [BASE_MODEL], NOW)
        assert job is not None
        clock, killed = FakeClock(), threading.Event()
        claim = Claim(home.database, home.blobs, Lease(job_id, job.token), lease_ttl_s=60)
        with (
            LeaseHeartbeat(claim, every_s=0.02, patience_s=900, clock=clock) as heartbeat,
            heartbeat.guarding(killed.set),
        ):
            wait_for(lambda: home.job(job_id).hb_seq > 3)
            clock.now_s += 899
            heartbeat.sign()
            clock.now_s += 899
            seen = home.job(job_id).hb_seq
            wait_for(lambda: home.job(job_id).hb_seq > seen)
            assert not killed.is_set()

            clock.now_s += 2
            assert killed.wait(30)
            seen = home.job(job_id).hb_seq
            time.sleep(0.1)  # five heartbeats' time
            assert home.job(job_id).hb_seq == seen
