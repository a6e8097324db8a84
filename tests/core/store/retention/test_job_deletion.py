"""Which jobs can be deleted, what goes with one, and what that frees; each test on both databases."""

from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import select, text

from core.errors import JobInUse, JobNotEnded, JobNotFound
from core.evaluations.spec import JudgedModel
from core.jobs.spec import AdapterRef
from core.jobs.status import JobStatus
from core.serving.adapter_format import MANIFEST, WEIGHTS
from core.store import jobs
from core.store.aliases import records as aliases
from core.store.aliases.records import AliasState, Why
from core.store.experiments import records as experiments
from core.store.experiments.records import NewExperiment
from core.store.jobs import NewJob
from core.store.queue.leases import Lease
from core.store.references.collector import Collector
from core.store.retention import job_deletion
from core.store.tables import FileRecord
from tests.core.store.experiments.experimenting import plan_on
from tests.core.store.leased import everything
from tests.core.store.references.deployment import NOW, SHARED_CONFIG, StoreInUse, write_adapter
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.job_specs import make_job_spec

OF_JOBS: Final = ("events", "attempts", "checkpoints", "job_metadata", "idempotency", "adapters")


def delete(deployment: StoreInUse, lease: Lease) -> job_deletion.DeletedJob:
    with deployment.database.write() as session:
        return job_deletion.delete(session, lease.job_id)


def failed_with_checkpoints(deployment: StoreInUse, folder: Path) -> tuple[Lease, list[AdapterRef]]:
    lease = deployment.claimed()
    folders = [write_adapter(folder / str(step), b"weights of step %d" % step) for step in (1, 2)]
    made = [deployment.checkpoint(lease, each, step) for step, each in enumerate(folders, 1)]
    deployment.fail(lease)
    return lease, made


def own_bytes(folder: Path) -> int:
    return sum((folder / step / name).stat().st_size for step in "12" for name in (MANIFEST, WEIGHTS))


def rows_of(deployment: StoreInUse, job_id: str) -> dict[str, int]:
    with deployment.database.read() as session:
        return {
            table: session.scalars(text(f"SELECT count(*) FROM {table} WHERE job_id = :id"), {"id": job_id}).one()
            for table in OF_JOBS
        }


def test_all_that_only_it_has_goes_and_its_bytes_with_it(deployment: StoreInUse, tmp_path: Path) -> None:
    lease, made = failed_with_checkpoints(deployment, tmp_path / "mine")
    assert rows_of(deployment, lease.job_id)["checkpoints"] == 2
    gone = delete(deployment, lease)
    assert gone.freed.bytes == own_bytes(tmp_path / "mine") + len(SHARED_CONFIG)
    assert gone.freed.keeps == ()
    assert gone.digests == sorted(ref.adapter_sha256 for ref in made)
    assert rows_of(deployment, lease.job_id) == dict.fromkeys(OF_JOBS, 0)
    freed = Collector(deployment.database, deployment.blobs, grace_s=0).collect()
    assert sum(blob.bytes for blob in freed) == gone.freed.bytes
    assert deployment.objects() == deployment.referenced()
    with pytest.raises(JobNotFound):
        delete(deployment, lease)


def test_what_a_model_that_stays_has_too_stays_and_is_named(deployment: StoreInUse, tmp_path: Path) -> None:
    model = deployment.publish(deployment.claimed(), write_adapter(tmp_path / "other", b"other weights"))
    lease, _ = failed_with_checkpoints(deployment, tmp_path / "mine")
    freed = delete(deployment, lease).freed
    assert freed.bytes == own_bytes(tmp_path / "mine")
    assert freed.keeps == (f"{len(SHARED_CONFIG)} bytes stay: {model} needs them too",)


def test_a_rehearsal_gives_the_same_figures_and_changes_nothing(deployment: StoreInUse, tmp_path: Path) -> None:
    deployment.publish(deployment.claimed(), write_adapter(tmp_path / "other", b"other weights"))
    lease, _ = failed_with_checkpoints(deployment, tmp_path / "mine")
    before = everything(deployment.database), deployment.rows()
    tried = deployment.database.rehearse(lambda session: job_deletion.delete(session, lease.job_id))
    assert (everything(deployment.database), deployment.rows()) == before
    assert delete(deployment, lease) == tried


def test_its_result_file_goes_and_what_its_deleted_model_let_go_of_is_not_counted_again(
    deployment: StoreInUse, tmp_path: Path
) -> None:
    lease = deployment.claimed()
    model = deployment.publish(lease, write_adapter(tmp_path / "adapter", b"weights"))
    with pytest.raises(JobInUse, match=f"its model {model} is served"):
        delete(deployment, lease)
    deployment.delete_model(model)
    assert delete(deployment, lease).freed.bytes == len(b"step,train_loss\n1,0.5\n")
    with deployment.database.read() as session:
        assert {file.filename for file in session.scalars(select(FileRecord))} == {"examples.jsonl"}


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED])
def test_one_that_has_not_ended_is_refused(deployment: StoreInUse, status: JobStatus) -> None:
    lease = deployment.claimed()
    with deployment.database.write() as session:
        session.execute(text("UPDATE jobs SET status = :status"), {"status": status.value})
    with pytest.raises(JobNotEnded, match=status.value):
        delete(deployment, lease)


class TestNeeded:
    """By what stays, a job cannot be deleted, and the refusal names it."""

    @pytest.fixture
    def failed(self, deployment: StoreInUse, tmp_path: Path) -> tuple[Lease, AdapterRef]:
        lease, made = failed_with_checkpoints(deployment, tmp_path / "mine")
        return lease, made[-1]

    def refused(self, deployment: StoreInUse, lease: Lease, user: str) -> None:
        before = everything(deployment.database)
        with pytest.raises(JobInUse, match=user):
            delete(deployment, lease)
        assert everything(deployment.database) == before

    def test_an_alias(self, deployment: StoreInUse, failed: tuple[Lease, AdapterRef]) -> None:
        lease, ref = failed
        with deployment.database.write() as session:
            aliases.move(session, "bot@prod", AliasState(model=ref.name), Why("someone", None), NOW)
        self.refused(deployment, lease, "the alias bot@prod")

    def test_a_job_that_goes_on_from_it(self, deployment: StoreInUse, failed: tuple[Lease, AdapterRef]) -> None:
        lease, ref = failed
        spec = make_job_spec(deployment.file_ref(lease), continue_from=ref)
        with deployment.database.write() as session:
            later = jobs.create(session, NewJob("someone", spec, {}, "1" * 64), NOW)
        self.refused(deployment, lease, f"job {later.id} goes on")

    def test_a_job_that_makes_it_again(self, deployment: StoreInUse, failed: tuple[Lease, AdapterRef]) -> None:
        lease, _ = failed
        new = NewJob("someone", make_job_spec(deployment.file_ref(lease)), {}, "1" * 64, rerun_of=lease.job_id)
        with deployment.database.write() as session:
            again = jobs.create(session, new, NOW)
        self.refused(deployment, lease, f"job {again.id} makes it again")

    def test_an_evaluation_until_it_has_ended(self, deployment: StoreInUse, failed: tuple[Lease, AdapterRef]) -> None:
        lease, ref = failed
        asked = (JudgedModel(name="tiny"), JudgedModel(name=ref.name, adapter=ref))
        spec = make_evaluation_spec(deployment.file_ref(lease), models=asked)
        with deployment.database.write() as session:
            evaluation = jobs.create(session, NewJob("someone", spec, {}, "1" * 64), NOW)
        self.refused(deployment, lease, f"evaluation {evaluation.id}")
        with deployment.database.write() as session:
            session.execute(text("UPDATE jobs SET status = 'succeeded' WHERE id = :id"), {"id": evaluation.id})
        delete(deployment, lease)

    def test_an_experiment(self, deployment: StoreInUse) -> None:
        with deployment.database.write() as session:
            file = session.get_one(FileRecord, self.uploaded(deployment))
            made = NewExperiment("someone", {}, "0" * 64, plan_on(file))
            experiment = experiments.create(session, made, NOW)
            [job_id, *_] = session.scalars(text("SELECT job_id FROM experiment_runs ORDER BY job_id"))
            session.execute(text("UPDATE jobs SET status = 'cancelled'"))
        self.refused(deployment, Lease(job_id, 0), f"experiment {experiment.id}")

    def uploaded(self, deployment: StoreInUse) -> str:
        return deployment.upload(b'{"prompt": "p", "completion": "c"}')
