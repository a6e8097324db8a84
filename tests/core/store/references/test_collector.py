"""What is freed, when, and by whom; each test on both databases."""

import hashlib
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, event, text, update

from core.errors import BlobFreed, CollectionRuns, InvalidParameter, PartsUnknown
from core.evaluations.spec import JudgedModel
from core.jobs.attempt import AttemptEnd, StoredAdapter, StoredCheckpoint
from core.jobs.spec import AdapterRef, FileRef
from core.jobs.status import JobStatus
from core.serving.adapter_format import MANIFEST, WEIGHTS
from core.store import adapters, files, jobs
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from core.store.jobs import NewJob
from core.store.queue import leases
from core.store.queue.leases import Lease
from core.store.references.collector import Collector
from core.store.references.recorded import RowFirst
from core.store.references.rows import hold, touch
from core.store.tables import BlobPartRecord, BlobRecord, BlobState
from tests.core.store.references.deployment import NOW, SHARED_CONFIG, StoreInUse, write_adapter
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.job_specs import make_job_spec
from worker.jobs.blob_transfer import store_adapter
from worker.jobs.claim import Claim

DAY_S = 24 * 60 * 60


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def collect(deployment: StoreInUse, grace_s: float = 0) -> list[str]:
    return [freed.sha256 for freed in Collector(deployment.database, deployment.blobs, grace_s).collect()]


class CollectorDied(BaseException):
    """What happens to a process that is killed, as far as its own code can tell."""


class MortalStore(LocalBlobStore):
    """A store whose process dies at the n-th deletion, before or after the bytes are gone."""

    dies: str | None = None

    def delete(self, sha256: str) -> None:
        if self.dies == "before":
            raise CollectorDied
        super().delete(sha256)
        if self.dies == "after":
            raise CollectorDied


@pytest.fixture
def mortal(database: Database, folder: Path) -> StoreInUse:
    return StoreInUse(database, MortalStore(folder, announce=RowFirst(database, wait_s=0)))


class TestPartsOfManifests:
    def test_a_file_of_the_same_bytes_that_is_deleted_leaves_every_adapter_whole(
        self, deployment: StoreInUse, tmp_path: Path
    ) -> None:
        models = 8
        for number in range(models):
            folder = write_adapter(tmp_path / f"adapter-{number}", b"weights %d" % number)
            deployment.publish(deployment.claimed(), folder)
        deployment.delete_file(deployment.upload(SHARED_CONFIG))
        deployment.age(2 * DAY_S)

        assert collect(deployment) == []
        assert deployment.blobs.exists(digest_of(SHARED_CONFIG))
        assert len(deployment.live_models()) == models
        assert deployment.lost() == set()

    def test_the_shared_one_goes_with_the_last_adapter_that_has_it(
        self, deployment: StoreInUse, tmp_path: Path
    ) -> None:
        folders = [write_adapter(tmp_path / str(number), b"weights %d" % number) for number in range(2)]
        first, second = (deployment.publish(deployment.claimed(), folder) for folder in folders)
        own = sum((folders[0] / name).stat().st_size for name in (MANIFEST, WEIGHTS))
        shared = len(SHARED_CONFIG)

        assert deployment.delete_model(first) == own
        collect(deployment)
        assert deployment.blobs.exists(digest_of(SHARED_CONFIG))
        assert not deployment.blobs.exists(digest_of(b"weights 0"))

        assert deployment.delete_model(second) == own + shared
        collect(deployment)
        assert deployment.objects() == deployment.referenced()
        assert not deployment.blobs.exists(digest_of(SHARED_CONFIG))


class TestGrace:
    def test_begins_when_the_last_record_lets_go(self, deployment: StoreInUse) -> None:
        content = b"examples"
        file_id = deployment.upload(content)
        deployment.age(30 * DAY_S)
        deployment.delete_file(file_id)

        assert collect(deployment, DAY_S) == []
        deployment.age(DAY_S - 60)
        assert collect(deployment, DAY_S) == []
        deployment.age(120)
        assert collect(deployment, DAY_S) == [digest_of(content)]
        assert not deployment.blobs.exists(digest_of(content))

    def test_begins_when_two_records_let_go_at_once(self, deployment: StoreInUse) -> None:
        """On PostgreSQL neither deletion sees the other's until its commit; on SQLite one waits for the other."""
        content = b"examples"
        first, second = (deployment.upload(content) for _ in range(2))
        deployment.age(30 * DAY_S)
        freed: list[int] = []

        def delete_second() -> None:
            with deployment.database.write() as session:
                freed.append(files.delete(session, second).bytes)

        other = threading.Thread(target=delete_second)
        with deployment.database.write() as session:
            freed.append(files.delete(session, first).bytes)
            other.start()
            other.join(0.5)  # it waits, or it has asked already who refers to the bytes
        other.join()
        assert freed == [0, len(content)]
        assert collect(deployment, DAY_S) == []

    def test_covers_what_is_stored_and_not_yet_referred_to(self, deployment: StoreInUse) -> None:
        deployment.blobs.put_bytes(b"of an upload under way")
        assert collect(deployment, DAY_S) == []
        deployment.age(DAY_S + 60)
        assert collect(deployment, DAY_S) == [digest_of(b"of an upload under way")]

    def test_begins_anew_when_the_same_is_stored_again(self, deployment: StoreInUse) -> None:
        deployment.blobs.put_bytes(b"twice")
        deployment.age(2 * DAY_S)
        deployment.blobs.put_bytes(b"twice")
        assert collect(deployment, DAY_S) == []

    def test_is_measured_by_the_databases_clock(self, deployment: StoreInUse, monkeypatch: pytest.MonkeyPatch) -> None:
        deployment.blobs.put_bytes(b"young")
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert collect(deployment, DAY_S) == []


def test_what_is_listed_is_not_freed_and_is_what_then_is(deployment: StoreInUse) -> None:
    blob = deployment.blobs.put_bytes(b"nobody's")
    deployment.upload(b"somebody's")
    collector = Collector(deployment.database, deployment.blobs, grace_s=0)
    before = deployment.rows(), deployment.objects()
    listed = collector.list_due()
    assert (deployment.rows(), deployment.objects()) == before
    assert [(due.sha256, due.bytes) for due in listed] == [(blob.sha256, blob.bytes)]
    assert collector.collect() == listed


def test_bytes_of_an_unfinished_job_stay_although_its_model_was_deleted(deployment: StoreInUse, tmp_path: Path) -> None:
    lease = deployment.claimed()
    name = deployment.publish(lease, write_adapter(tmp_path / "adapter", b"weights"))
    with deployment.database.write() as session:
        earlier = jobs.get(session, lease.job_id)
        file = files.get(session, earlier.training_file_id)
        [adapter_sha256] = [sha256 for sha256 in deployment.referenced() if sha256 in manifests(deployment)]
        spec = make_job_spec(
            FileRef(id=file.id, sha256=file.sha256, examples=1, file_type="jsonl"),
            continue_from=AdapterRef(name=name, adapter_sha256=adapter_sha256),
        )
        later = jobs.create(session, NewJob("someone", spec, {}, "0" * 64), NOW)
    assert deployment.delete_model(name) == 0
    collect(deployment)
    assert deployment.lost() == set()
    assert deployment.blobs.exists(digest_of(b"weights"))
    with pytest.raises(InvalidParameter, match="deleted"), deployment.database.write() as session:
        jobs.create(session, NewJob("someone", spec, {}, "1" * 64), NOW)

    with deployment.database.write() as session:
        session.execute(text("UPDATE jobs SET status = 'cancelled' WHERE id = :id"), {"id": later.id})
    collect(deployment)
    assert not deployment.blobs.exists(digest_of(b"weights"))


def test_bytes_of_an_unfinished_evaluation_stay_although_its_model_was_deleted(
    deployment: StoreInUse, tmp_path: Path
) -> None:
    lease = deployment.claimed()
    name = deployment.publish(lease, write_adapter(tmp_path / "adapter", b"weights"))
    [adapter_sha256] = [sha256 for sha256 in deployment.referenced() if sha256 in manifests(deployment)]
    with deployment.database.write() as session:
        file = files.get(session, jobs.get(session, lease.job_id).training_file_id)
        asked = JudgedModel(name=name, adapter=AdapterRef(name=name, adapter_sha256=adapter_sha256))
        ref = FileRef(id=file.id, sha256=file.sha256, examples=1, file_type="jsonl")
        spec = make_evaluation_spec(ref, models=(JudgedModel(name="tiny"), asked))
        evaluation = jobs.create(session, NewJob("someone", spec, {}, "0" * 64), NOW)
    assert deployment.delete_model(name) == 0
    collect(deployment)
    assert deployment.lost() == set()
    assert deployment.blobs.exists(digest_of(b"weights"))

    with deployment.database.write() as session:
        session.execute(text("UPDATE jobs SET status = 'succeeded' WHERE id = :id"), {"id": evaluation.id})
    collect(deployment)
    assert not deployment.blobs.exists(digest_of(b"weights"))


def manifests(deployment: StoreInUse) -> set[str]:
    with deployment.database.read() as session:
        return set(session.scalars(text("SELECT manifest_sha256 FROM blob_parts")))


class TestDeadCollectors:
    @pytest.mark.parametrize("dies", ["before", "after"])
    def test_are_finished_by_the_next(self, mortal: StoreInUse, folder: Path, dies: str) -> None:
        kept = mortal.upload(b"somebody's")
        for number in range(3):
            mortal.blobs.put_bytes(b"nobody's %d" % number)
        assert isinstance(mortal.blobs, MortalStore)
        mortal.blobs.dies = dies
        with pytest.raises(CollectorDied):
            collect(mortal)
        assert list(mortal.rows().values()).count(BlobState.DELETING) == 3
        mortal.blobs.dies = None

        with pytest.raises(BlobFreed):  # whose bytes could be deleted at any moment
            mortal.blobs.put_bytes(b"nobody's 1")
        Collector(mortal.database, mortal.blobs, grace_s=DAY_S).finish_for_dead()
        assert mortal.objects() == set(mortal.rows()) == {digest_of(b"somebody's")}
        mortal.blobs.put_bytes(b"nobody's 1")
        assert mortal.file_ids() == [kept]

    def test_that_live_are_left_alone(self, mortal: StoreInUse, folder: Path, database: Database) -> None:
        mortal.blobs.put_bytes(b"nobody's")
        with database.write() as session:
            session.execute(update(BlobRecord).values(state=BlobState.DELETING))
        with mortal.blobs.alone(wait_s=0):
            other = Collector(database, LocalBlobStore(folder), grace_s=0)
            other.finish_for_dead()
            assert list(mortal.rows().values()) == [BlobState.DELETING]
            with pytest.raises(CollectionRuns):
                other.collect()


class TestWriters:
    def test_whose_bytes_were_freed_before_the_record_begin_again(self, deployment: StoreInUse) -> None:
        blob = deployment.blobs.put_bytes(b"slow")
        collect(deployment)
        with pytest.raises(BlobFreed), deployment.database.write() as session:
            hold(session, deployment.blobs.exists, [blob.sha256])
        deployment.upload(b"slow")
        assert deployment.lost() == set()

    def test_are_not_deceived_by_the_row_of_another_who_has_not_put_the_bytes_yet(self, deployment: StoreInUse) -> None:
        blob = deployment.blobs.put_bytes(b"shared")
        collect(deployment)
        with deployment.database.write() as session:
            assert touch(session, blob)  # the other writer's first step
        with pytest.raises(BlobFreed), deployment.database.write() as session:
            hold(session, deployment.blobs.exists, [blob.sha256])

    def test_who_have_not_committed_yet_keep_their_bytes(self, deployment: StoreInUse) -> None:
        """On PostgreSQL nobody else sees the record by then; on SQLite the collector waits for the writer."""
        blob = deployment.blobs.put_bytes(b"held")
        held, commit, freed = threading.Event(), threading.Event(), []

        def write() -> None:
            with deployment.database.write() as session:
                hold(session, deployment.blobs.exists, [blob.sha256])
                held.set()
                assert commit.wait(10)
                new = files.NewFile("someone", "f", "fine-tune", blob, "jsonl")
                files.create(session, new, NOW)

        writer = threading.Thread(target=write)
        collector = threading.Thread(target=lambda: freed.extend(collect(deployment)))
        writer.start()
        assert held.wait(10)
        collector.start()
        collector.join(0.5)  # PostgreSQL's is done by now, or it waits
        commit.set()
        writer.join()
        collector.join()
        assert freed == []
        assert deployment.lost() == set()


@pytest.mark.server
def test_what_is_referred_to_between_the_look_and_the_lock_is_kept(postgres_url: str, folder: Path) -> None:
    """PostgreSQL's alone: on SQLite nobody writes between a transaction's first statement and its end."""
    database = Database(postgres_url)
    deployment = StoreInUse(database, LocalBlobStore(folder, announce=RowFirst(database)))
    blob = deployment.blobs.put_bytes(b"looked at")
    looked, locks, freed = threading.Event(), threading.Event(), []
    collector = threading.Thread(target=lambda: freed.extend(collect(deployment)))

    def pause(connection: object, cursor: object, statement: str, *others: object) -> None:
        if threading.current_thread() is collector and "EXCEPT SELECT blob_references" in statement:
            looked.set()
            assert locks.wait(10)

    event.listen(Engine, "after_cursor_execute", pause)
    try:
        collector.start()
        assert looked.wait(10)
        with database.write() as session:
            hold(session, deployment.blobs.exists, [blob.sha256])
            files.create(session, files.NewFile("someone", "f", "fine-tune", blob, "jsonl"), NOW)
        locks.set()
        collector.join()
    finally:
        event.remove(Engine, "after_cursor_execute", pause)
        database.dispose()
    assert freed == []
    assert deployment.blobs.exists(blob.sha256)


class TestManifestsOfOlderVersions:
    @pytest.fixture
    def older(self, deployment: StoreInUse, tmp_path: Path) -> StoreInUse:
        """A served model and a deleted one as the migration leaves them: rows for the manifests, and no parts."""
        for number in range(2):
            folder = write_adapter(tmp_path / str(number), b"weights %d" % number)
            name = deployment.publish(deployment.claimed(), folder)
        deployment.delete_model(name)
        with deployment.database.write() as session:
            parts = set(session.scalars(text("SELECT sha256 FROM blob_parts")))
            session.execute(delete(BlobPartRecord))
            session.execute(delete(BlobRecord).where(BlobRecord.sha256.in_(parts)))
        return deployment

    def test_are_read_before_anything_is_freed(self, older: StoreInUse) -> None:
        collect(older)
        assert older.lost() == set()
        assert older.blobs.exists(digest_of(b"weights 0"))
        assert older.blobs.exists(digest_of(SHARED_CONFIG))
        assert older.objects() == older.referenced()  # what the deleted model left is freed too

    @pytest.mark.parametrize("spoilt", ["absent", "damaged"])
    def test_that_cannot_be_read_keep_everything_from_being_freed(
        self, older: StoreInUse, folder: Path, spoilt: str
    ) -> None:
        older.blobs.put_bytes(b"nobody's")
        [manifest] = older.referenced() & (older.objects() - {digest_of(b'{"prompt": "p", "completion": "c"}')}) - {
            digest_of(b"step,train_loss\n1,0.5\n")
        }
        path = folder / "blobs" / manifest[:2] / manifest
        if spoilt == "absent":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes().replace(b"tiny", b"tinx"))
        before = older.objects()
        with pytest.raises(PartsUnknown, match=manifest[:12]):
            collect(older)
        assert older.objects() == before
        [name] = older.live_models()
        older.delete_model(name)
        collect(older)
        assert not older.blobs.exists(digest_of(b"nobody's"))


def _checkpoint(deployment: StoreInUse, folder: Path) -> tuple[Lease, StoredAdapter]:
    lease = deployment.claimed()
    adapter = store_adapter(deployment.blobs, write_adapter(folder, b"weights"))
    claim = Claim(deployment.database, deployment.blobs, lease, lease_ttl_s=30)
    claim.report(checkpoints=[StoredCheckpoint(1, "ft:x:ckpt-step-1", adapter, {})])
    return lease, adapter


@pytest.mark.parametrize("status", JobStatus)
def test_a_checkpoint_of_a_job_without_a_model_is_served_and_counted_whatever_its_end(
    deployment: StoreInUse, tmp_path: Path, status: JobStatus
) -> None:
    _, adapter = _checkpoint(deployment, tmp_path / "checkpoint")
    with deployment.database.write() as session:
        session.execute(text("UPDATE jobs SET status = :status"), {"status": status.value})
    with deployment.database.read() as session:
        assert adapters.find_served(session, "ft:x:ckpt-step-1") is not None
    assert {adapter.sha256, *adapter.parts} <= deployment.referenced()


def test_a_checkpoint_of_a_cancelled_job_keeps_its_bytes_until_it_is_deleted(
    deployment: StoreInUse, tmp_path: Path
) -> None:
    lease, adapter = _checkpoint(deployment, tmp_path / "checkpoint")
    with deployment.database.write() as session:
        leases.cancel(session, lease, AttemptEnd(), NOW)
    collect(deployment)
    assert deployment.blobs.exists(digest_of(b"weights"))
    deployment.delete_model("ft:x:ckpt-step-1")
    assert not {adapter.sha256, *adapter.parts} & deployment.referenced()
    collect(deployment)
    assert not deployment.blobs.exists(digest_of(b"weights"))
    assert not deployment.blobs.exists(adapter.sha256)
