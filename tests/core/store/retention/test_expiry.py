"""What is too old leaves, and what something needs does not; each test on both databases."""

import time
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import ColumnElement, select, text

from core.errors import FileExpired, FileNotStored, InvalidParameter
from core.evaluations.spec import JudgedModel
from core.jobs.events import JobEvent
from core.jobs.spec import AdapterRef
from core.settings import Settings
from core.store import events, files, jobs
from core.store.aliases import records as aliases
from core.store.aliases.records import AliasState, Why
from core.store.db import Database, Session
from core.store.experiments import records as experiments
from core.store.experiments.records import NewExperiment
from core.store.jobs import IdempotencyKey, NewJob
from core.store.queue.leases import Lease
from core.store.references import rows
from core.store.references.collector import Collector
from core.store.retention import expiry
from core.store.retention.expiry import Expiry, Retention
from core.store.tables import CheckpointRecord, EventRecord, FileRecord
from tests.core.store.experiments.experimenting import plan_on
from tests.core.store.leased import events_of
from tests.core.store.references import deployment as deployed
from tests.core.store.references.deployment import StoreInUse, write_adapter
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.job_specs import make_job_spec

DAYS: Final = 10
ALL: Final = Retention(*[DAYS] * 5)
TABLES: Final = ("jobs", "attempts", "events", "checkpoints", "adapters", "files", "idempotency", "expired_files")


class Clock:
    """The database's, as `expiry` reads it."""

    days = 0.0

    def __call__(self, session: Session) -> ColumnElement[int]:
        return rows.database_now(session) + int(self.days * 24 * 60 * 60)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(expiry, "database_now", clock)
    monkeypatch.setattr(deployed, "NOW", int(time.time()))
    return clock


@pytest.fixture
def old(clock: Clock) -> Clock:
    """Let everything be too old."""
    clock.days = DAYS + 0.1
    return clock


def expire(deployment: StoreInUse, retention: Retention = ALL) -> int:
    return Expiry(deployment.database, retention).expire()


def counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {table: session.scalars(text(f"SELECT count(*) FROM {table}")).one() for table in TABLES}


def checkpointed(deployment: StoreInUse, folder: Path) -> tuple[Lease, list[AdapterRef]]:
    """Give a running job with three checkpoints."""
    lease = deployment.claimed()
    folders = [write_adapter(folder / str(step), b"weights of step %d" % step) for step in (1, 2, 3)]
    return lease, [deployment.checkpoint(lease, each, step) for step, each in enumerate(folders, 1)]


def checkpoint_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(CheckpointRecord.name).order_by(CheckpointRecord.step)))


def say(deployment: StoreInUse, lease: Lease, count: int) -> None:
    with deployment.database.write() as session:
        for number in range(count):
            events.append(session, lease.job_id, JobEvent(f"event {number}"), deployed.NOW)


def page(deployment: StoreInUse, lease: Lease, after: str | None, limit: int = 9) -> list[EventRecord]:
    with deployment.database.read() as session:
        return list(events.list_page(session, lease.job_id, after=after, limit=limit)[0])


def deployment_with_everything(deployment: StoreInUse, folder: Path) -> tuple[Lease, Lease]:
    """Give a job that has succeeded with checkpoints, and one that has failed; the first by a key."""
    succeeded, _ = checkpointed(deployment, folder / "succeeded")
    with deployment.database.write() as session:
        key = IdempotencyKey("someone", "POST /v1/fine_tuning/jobs", "k")
        jobs.remember_idempotent(session, key, body_sha256="0" * 64, job_id=succeeded.job_id, now=deployed.NOW)
    say(deployment, succeeded, 3)
    deployment.publish(succeeded, write_adapter(folder / "model", b"weights"))
    failed, _ = checkpointed(deployment, folder / "failed")
    deployment.fail(failed)
    return succeeded, failed


def test_by_default_nothing_leaves(deployment: StoreInUse, clock: Clock, tmp_path: Path) -> None:
    deployment_with_everything(deployment, tmp_path)
    clock.days = 10_000
    before = counts(deployment.database)
    assert Retention.of(Settings()) == Retention()
    assert expire(deployment, Retention.of(Settings())) == 0
    assert counts(deployment.database) == before


def test_what_is_young_stays_and_what_is_too_old_leaves(deployment: StoreInUse, clock: Clock, tmp_path: Path) -> None:
    succeeded, failed = deployment_with_everything(deployment, tmp_path)
    before = counts(deployment.database)
    clock.days = DAYS - 0.1
    assert expire(deployment) == 0
    assert counts(deployment.database) == before

    clock.days = DAYS + 0.1
    assert expire(deployment) > 0
    after = counts(deployment.database)
    assert [event.seq for event in events_of(deployment.database, succeeded.job_id)] == [4]
    assert after == before | {
        "attempts": 1,  # that succeeded
        "events": 2,  # the last of each job
        "checkpoints": 1,  # the last of the job that failed
        "files": before["files"] - 1,
        "idempotency": 0,
        "expired_files": 1,
    }
    assert checkpoint_names(deployment.database)[0].startswith(f"ft:tiny:local::{failed.job_id}")
    assert expire(deployment) == 0
    assert counts(deployment.database) == after
    Collector(deployment.database, deployment.blobs, grace_s=0).collect()
    assert deployment.lost() == set()
    assert deployment.objects() == deployment.referenced()


@pytest.mark.parametrize("kind", Retention.__match_args__)
def test_each_kind_has_its_own_time(deployment: StoreInUse, old: Clock, tmp_path: Path, kind: str) -> None:
    deployment_with_everything(deployment, tmp_path)
    before = counts(deployment.database)
    expire(deployment, Retention(**{kind: DAYS}))
    table = {"failed_attempts": "attempts", "idempotency_keys": "idempotency", "result_files": "files"}.get(kind, kind)
    changed = {name for name, count in counts(deployment.database).items() if count != before[name]}
    assert changed == {table} | ({"expired_files"} if kind == "result_files" else set())


def test_nothing_leaves_of_a_job_that_has_not_ended(deployment: StoreInUse, old: Clock, tmp_path: Path) -> None:
    lease, _ = checkpointed(deployment, tmp_path)
    say(deployment, lease, 3)
    before = counts(deployment.database)
    assert expire(deployment) == 0
    assert counts(deployment.database) == before


class TestCheckpoints:
    @pytest.fixture
    def ended(self, deployment: StoreInUse, tmp_path: Path) -> tuple[Lease, list[AdapterRef]]:
        """Give a job that failed, and its checkpoints, of which the last stays in any case."""
        lease, made = checkpointed(deployment, tmp_path)
        deployment.fail(lease)
        return lease, made

    def left(self, deployment: StoreInUse) -> list[str]:
        expire(deployment, Retention(checkpoints=DAYS))
        return checkpoint_names(deployment.database)

    def test_that_an_alias_stands_for_stay(
        self, deployment: StoreInUse, old: Clock, ended: tuple[Lease, list[AdapterRef]]
    ) -> None:
        _, (first, second, last) = ended
        with deployment.database.write() as session:
            state = AliasState(model=second.name, canary=first.name, percent=5)
            aliases.move(session, "bot@prod", state, Why("someone", None), deployed.NOW)
        assert self.left(deployment) == [first.name, second.name, last.name]
        with deployment.database.write() as session:
            aliases.delete(session, "bot@prod", Why("someone", None), deployed.NOW)
        assert self.left(deployment) == [last.name]

    def test_that_a_waiting_job_goes_on_from_stay(
        self, deployment: StoreInUse, old: Clock, ended: tuple[Lease, list[AdapterRef]]
    ) -> None:
        lease, (first, _, last) = ended
        spec = make_job_spec(deployment.file_ref(lease), continue_from=first)
        with deployment.database.write() as session:
            later = jobs.create(session, NewJob("someone", spec, {}, "1" * 64), deployed.NOW)
        assert self.left(deployment) == [first.name, last.name]
        with deployment.database.write() as session:
            session.execute(text("UPDATE jobs SET status = 'cancelled' WHERE id = :id"), {"id": later.id})
        assert self.left(deployment) == [last.name]

    def test_that_an_evaluation_is_to_ask_stay(
        self, deployment: StoreInUse, old: Clock, ended: tuple[Lease, list[AdapterRef]]
    ) -> None:
        lease, (first, _, last) = ended
        asked = (JudgedModel(name="tiny"), JudgedModel(name=first.name, adapter=first))
        spec = make_evaluation_spec(deployment.file_ref(lease), models=asked)
        with deployment.database.write() as session:
            evaluation = jobs.create(session, NewJob("someone", spec, {}, "1" * 64), deployed.NOW)
        assert self.left(deployment) == [first.name, last.name]
        with deployment.database.write() as session:
            session.execute(text("UPDATE jobs SET status = 'cancelled' WHERE id = :id"), {"id": evaluation.id})
        assert self.left(deployment) == [last.name]

    def test_of_a_run_stay_until_its_experiment_has_ended(
        self, deployment: StoreInUse, old: Clock, ended: tuple[Lease, list[AdapterRef]]
    ) -> None:
        lease, made = ended
        with deployment.database.write() as session:
            file = session.scalars(select(FileRecord)).first()
            assert file is not None
            experiments.create(session, NewExperiment("someone", {}, "0" * 64, plan_on(file)), deployed.NOW)
            run = "UPDATE experiment_runs SET job_id = :id WHERE arm = 0 AND seed = 1"
            session.execute(text(run), {"id": lease.job_id})
        assert self.left(deployment) == [ref.name for ref in made]
        with deployment.database.write() as session:
            session.execute(text("UPDATE experiments SET status = 'cancelled'"))
        assert self.left(deployment) == [made[-1].name]

    def test_all_leave_beside_the_model_that_they_led_to_and_it_is_whole(
        self, deployment: StoreInUse, old: Clock, tmp_path: Path
    ) -> None:
        lease, _ = checkpointed(deployment, tmp_path)
        model = deployment.publish(lease, write_adapter(tmp_path / "model", b"weights"))
        assert self.left(deployment) == []
        Collector(deployment.database, deployment.blobs, grace_s=0).collect()
        assert deployment.live_models() == [model]
        assert deployment.lost() == set()


class TestEvents:
    def test_leave_a_reader_in_the_middle_at_the_end_of_the_list(self, deployment: StoreInUse, old: Clock) -> None:
        lease = deployment.claimed()
        say(deployment, lease, 5)
        deployment.fail(lease)
        seen = page(deployment, lease, None, limit=3)
        expire(deployment, Retention(events=DAYS))
        assert page(deployment, lease, seen[-1].id) == []
        assert [event.id for event in page(deployment, lease, None)] == [seen[0].id]

    def test_that_never_were_are_refused_as_before(self, deployment: StoreInUse, old: Clock) -> None:
        lease = deployment.claimed()
        say(deployment, lease, 2)
        with pytest.raises(InvalidParameter):
            page(deployment, lease, "ftevent-none")

    def test_leave_in_short_transactions_over_several_passes(
        self, deployment: StoreInUse, old: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expiry, "_ROWS", 3)
        monkeypatch.setattr(expiry, "_TRANSACTIONS", 2)
        leases = [deployment.claimed() for _ in range(2)]
        for lease in leases:
            say(deployment, lease, 8)
            deployment.fail(lease)
        passing = Expiry(deployment.database, Retention(events=DAYS))
        assert [passing.expire() for _ in range(5)] == [6, 5, 5, 0, 0]
        assert [len(events_of(deployment.database, lease.job_id)) for lease in leases] == [1, 1]


def test_all_jobs_are_come_round_to(deployment: StoreInUse, old: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_JOBS", 2)
    passing = Expiry(deployment.database, Retention(events=DAYS))
    for _ in range(3):
        lease = deployment.claimed()
        say(deployment, lease, 1)
        deployment.fail(lease)
    assert [passing.expire() for _ in range(3)] == [2, 1, 0]


def test_a_result_file_that_left_is_gone_by_name_and_its_bytes_are_freed(
    deployment: StoreInUse, old: Clock, tmp_path: Path
) -> None:
    lease = deployment.claimed()
    deployment.publish(lease, write_adapter(tmp_path / "model", b"weights"))
    with deployment.database.read() as session:
        job = jobs.get(session, lease.job_id)
        assert job.result is not None
        [file_id] = job.result["result_files"]
    expire(deployment, Retention(result_files=DAYS))
    for ask in (files.get, files.delete):
        with (
            pytest.raises(FileExpired, match="LORAMILL_RETENTION_RESULT_FILES_D"),
            deployment.database.write() as session,
        ):
            ask(session, file_id)
    with pytest.raises(FileNotStored) as never, deployment.database.read() as session:
        files.get(session, "file-none")
    assert type(never.value) is FileNotStored
    freed = Collector(deployment.database, deployment.blobs, grace_s=0).collect()
    assert [blob.bytes for blob in freed] == [len(b"step,train_loss\n1,0.5\n")]
