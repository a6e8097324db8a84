"""The sweeper on a real database with a clock of the test's own."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from core.dispatch.sweeper import ABANDONED_WRITE_S, Sweeper
from core.errors import DatabaseUnavailable, StorageFull
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store import jobs
from core.store.db import Session
from core.store.queue import claims, leases
from core.store.references import rows
from core.store.references.collector import COLLECT_EVERY_S
from core.store.retention import expiry
from core.store.retention.expiry import EXPIRE_EVERY_S
from tests.harness.fake_clock import FakeClock
from tests.worker.conftest import BASE_MODEL, NOW, Home
from tests.worker.conftest import home as home
from tests.worker.conftest import settings as settings

STEP_S = 4.0


class FailingNotifier:
    def __init__(self) -> None:
        self.notified: list[str] = []
        self.broker_is_away = False

    def notify(self, job_id: str) -> bool:
        if not self.broker_is_away:
            self.notified.append(job_id)
        return not self.broker_is_away

    def reaches_broker(self) -> bool:
        return not self.broker_is_away


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def notifier() -> FailingNotifier:
    return FailingNotifier()


@pytest.fixture
def sweeper(home: Home, notifier: FailingNotifier, clock: FakeClock) -> Sweeper:
    timed = home.settings.model_copy(update={"lease_ttl_s": 10.0, "sweep_s": STEP_S})
    return Sweeper(home.database, home.blobs, notifier, timed, clock)


def sweep(sweeper: Sweeper, clock: FakeClock, times: int) -> None:
    for _ in range(times):
        clock.now_s += STEP_S
        sweeper.sweep_once()


def claim(home: Home) -> int:
    with home.database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("me", "here", 1), [BASE_MODEL], NOW)
    assert job is not None
    return job.token


class TestLeases:
    def test_that_stand_still_for_their_ttl_are_taken(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        job_id = home.queue()
        claim(home)

        sweep(sweeper, clock, 3)  # seen for 8 s
        assert home.job(job_id).status is JobStatus.RUNNING
        sweep(sweeper, clock, 1)
        assert home.job(job_id).status is JobStatus.QUEUED

    def test_that_are_renewed_are_never_taken(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        job_id = home.queue()
        token = claim(home)
        for _ in range(20):
            sweep(sweeper, clock, 2)
            with home.database.write() as session:
                leases.heartbeat(session, leases.Lease(job_id, token), None)

        assert home.job(job_id).status is JobStatus.RUNNING

    def test_survive_a_sweeper_that_was_stopped_itself(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        job_id = home.queue()
        claim(home)
        sweep(sweeper, clock, 1)
        clock.now_s += 3600
        sweep(sweeper, clock, 1)

        assert home.job(job_id).status is JobStatus.RUNNING

    def test_survive_a_database_that_was_away(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = home.queue()
        claim(home)
        sweep(sweeper, clock, 2)

        @contextmanager
        def away() -> Iterator[Session]:
            raise DatabaseUnavailable
            yield

        with monkeypatch.context() as patched:
            patched.setattr(home.database, "read", away)
            with pytest.raises(DatabaseUnavailable):
                sweep(sweeper, clock, 1)
        sweep(sweeper, clock, 2)

        assert home.job(job_id).status is JobStatus.RUNNING

    def test_of_a_job_to_be_cancelled_end_it(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        job_id = home.queue()
        claim(home)
        home.cancel(job_id)
        sweep(sweeper, clock, 4)

        assert home.job(job_id).status is JobStatus.CANCELLED

    def test_of_a_job_to_be_paused_pause_it(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, notifier: FailingNotifier
    ) -> None:
        job_id = home.queue()
        claim(home)
        home.pause(job_id)
        sweep(sweeper, clock, 3)
        assert home.job(job_id).status is JobStatus.RUNNING
        sweep(sweeper, clock, 3)

        assert home.job(job_id).status is JobStatus.PAUSED
        assert notifier.notified == []

        home.resume(job_id)
        sweep(sweeper, clock, 1)
        assert notifier.notified == [job_id]

    def test_lost_as_often_as_attempts_are_allowed_fail_the_job(
        self, home: Home, sweeper: Sweeper, clock: FakeClock
    ) -> None:
        job_id = home.queue()
        for _ in range(home.settings.max_attempts):
            claim(home)
            sweep(sweeper, clock, 4)

        assert (home.job(job_id).status, home.job(job_id).error_code) == ("failed", "worker_lost")


class TestNotifications:
    def test_are_sent_once_for_a_job_that_nobody_notified_of(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, notifier: FailingNotifier
    ) -> None:
        job_id = home.queue()
        sweep(sweeper, clock, 3)

        assert notifier.notified == [job_id]

    def test_are_sent_again_for_a_job_that_waits_on(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, notifier: FailingNotifier
    ) -> None:
        job_id = home.queue()
        with home.database.write() as session:
            jobs.mark_notified(session, [job_id], NOW - 10**9)
        sweep(sweeper, clock, 1)

        assert notifier.notified == [job_id]

    def test_do_not_count_while_the_broker_is_away(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, notifier: FailingNotifier
    ) -> None:
        job_id = home.queue()
        notifier.broker_is_away = True
        sweep(sweeper, clock, 1)
        assert home.job(job_id).notified_at is None

        notifier.broker_is_away = False
        sweep(sweeper, clock, 1)
        assert notifier.notified == [job_id]

    def test_are_not_sent_for_a_job_that_runs(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, notifier: FailingNotifier, settings: Settings
    ) -> None:
        home.queue()
        claim(home)
        sweep(sweeper, clock, 1)

        assert notifier.notified == []


class TestUnreferencedBytes:
    def test_are_freed_at_the_start_and_then_hourly(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        for number in range(2):
            blob = home.blobs.put_bytes(b"nobody's %d" % number)
            with home.database.write() as session:
                session.execute(text("UPDATE blobs SET touched_at = touched_at - 25 * 3600"))
            sweep(sweeper, clock, 1)
            assert home.blobs.exists(blob.sha256) is (number == 1)
        clock.now_s += COLLECT_EVERY_S
        sweep(sweeper, clock, 1)
        assert not home.blobs.exists(blob.sha256)

    def test_stay_for_the_grace(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        blob = home.blobs.put_bytes(b"nobody's")
        sweep(sweeper, clock, 1)
        assert home.blobs.exists(blob.sha256)

    def test_whose_collector_died_are_finished_with_the_next_sweep(
        self, home: Home, sweeper: Sweeper, clock: FakeClock
    ) -> None:
        sweep(sweeper, clock, 1)
        blob = home.blobs.put_bytes(b"nobody's")
        with home.database.write() as session:
            session.execute(text("UPDATE blobs SET state = 'deleting'"))
        sweep(sweeper, clock, 1)
        assert not home.blobs.exists(blob.sha256)

    def test_are_left_to_another_process_that_is_at_it(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        job_id = home.queue()
        claim(home)
        with home.blobs.alone(wait_s=0):
            sweep(sweeper, clock, 4)
        assert home.job(job_id).status is JobStatus.QUEUED


def test_a_full_disk_does_not_end_the_sweeping(home: Home, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def full() -> None:
        stop.set()
        raise StorageFull

    monkeypatch.setattr(sweeper, "sweep_once", full)
    sweeper.run(stop)  # which would raise


class TestWhatIsTooOld:
    @pytest.fixture
    def ended(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> str:
        """Give a job that ended more than a day ago, with three events."""
        job_id = home.queue()
        home.pause(job_id)
        home.resume(job_id)
        home.cancel(job_id)
        now = rows.database_now
        monkeypatch.setattr(expiry, "database_now", lambda session: now(session) - int(time.time()) + NOW + 100_000)
        return job_id

    def test_stays_for_ever_unless_a_setting_says_how_long(
        self, home: Home, sweeper: Sweeper, clock: FakeClock, ended: str
    ) -> None:
        sweep(sweeper, clock, 30)
        assert len(home.events(ended)) == 3

    def test_leaves_at_the_start_and_then_each_minute(
        self, home: Home, notifier: FailingNotifier, clock: FakeClock, ended: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expiry, "_TRANSACTIONS", 1)
        monkeypatch.setattr(expiry, "_ROWS", 1)
        settings = home.settings.model_copy(update={"retention_events_d": 1, "sweep_s": STEP_S})
        sweeper = Sweeper(home.database, home.blobs, notifier, settings, clock)
        sweep(sweeper, clock, 1)
        assert len(home.events(ended)) == 2
        sweep(sweeper, clock, 1)
        assert len(home.events(ended)) == 2
        clock.now_s += EXPIRE_EVERY_S
        sweep(sweeper, clock, 1)
        assert len(home.events(ended)) == 1


class TestAbandonedWrites:
    def test_are_freed_once_they_have_not_grown_for_a_day(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        incoming = home.settings.store_folder / "incoming"
        for age_s, left in ((ABANDONED_WRITE_S - 60, 1), (ABANDONED_WRITE_S + 60, 0)):
            with home.blobs.write() as writer:
                writer.write(b"half of a file")
                [part] = incoming.iterdir()
                os.utime(part, (time.time() - age_s,) * 2)
                sweep(sweeper, clock, 1)
                assert len(list(incoming.iterdir())) == left

    def test_of_a_process_that_died_are_freed_at_the_next_start(
        self, home: Home, sweeper: Sweeper, clock: FakeClock
    ) -> None:
        part = home.settings.store_folder / "incoming" / "killed.part"
        part.write_bytes(b"half of a file")
        sweep(sweeper, clock, 1)
        assert part.exists()  # its writer could be about to lock it
        os.utime(part, (time.time() - 90,) * 2)
        sweep(sweeper, clock, 1)
        assert not part.exists()

    def test_that_go_on_are_left_to_their_writer(self, home: Home, sweeper: Sweeper, clock: FakeClock) -> None:
        with home.blobs.write() as writer:
            [part] = (home.settings.store_folder / "incoming").iterdir()
            os.utime(part, (time.time() - 2 * ABANDONED_WRITE_S,) * 2)
            writer.write(b"and on it goes")
            sweep(sweeper, clock, 1)
            blob = writer.commit()

        assert home.blobs.exists(blob.sha256)

    def test_of_a_store_that_is_away_keep_no_lease_from_being_taken(
        self, home: Home, sweeper: Sweeper, clock: FakeClock
    ) -> None:
        job_id = home.queue()
        claim(home)
        shutil.rmtree(home.settings.store_folder)
        sweep(sweeper, clock, 4)

        assert home.job(job_id).status is JobStatus.QUEUED
