"""A database and a store with what writers and deleters do to them, each by the product's own steps."""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update

from app.files import service as file_service
from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredCheckpoint
from core.jobs.spec import AdapterRef, FileRef, LoraSpec
from core.serving.adapter_format import CONFIG, WEIGHTS, AdapterOrigin, write_manifest
from core.settings import Settings
from core.store import adapters, files, jobs
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.store.references.owners import owners_of
from core.store.references.rows import let_go
from core.store.retention import job_deletion
from core.store.tables import (
    BLOB_REFERENCES,
    AdapterRecord,
    AdapterState,
    BlobRecord,
    BlobState,
    FileRecord,
    JobRecord,
)
from tests.harness.job_specs import make_job_spec
from worker.jobs.blob_transfer import StoredResults, store_adapter
from worker.jobs.claim import Claim

SHARED_CONFIG = b'{"peft_type": "LORA", "r": 8}'  # equal for all adapters of one shape
NOW = 100


def write_adapter(folder: Path, weights: bytes) -> Path:
    """Write an adapter's folder: its own weights, and the config that all adapters of this shape have."""
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_bytes(SHARED_CONFIG)
    write_manifest(folder, ORIGIN)
    return folder


ORIGIN = AdapterOrigin(
    base_model="tiny",
    base_model_fingerprint="f" * 64,
    tokenizer_sha256="a" * 64,
    chat_template_sha256=None,
    example_format="prompt_completion",
    prompt_format=None,
    prompts=(),
    job_id="ftjob-x",
    step=1,
    trained_on="the completions",
    lora=LoraSpec(),
)


@dataclass
class StoreInUse:
    """One database and one store, as API and worker use them."""

    database: Database
    blobs: BlobStore

    def upload(self, content: bytes) -> str:
        """Upload a file as the API does; give its id."""
        with file_service.receive(self.blobs, Settings()) as upload:
            upload.begin("examples.jsonl")
            upload.write(content)
            received = upload.finish()
        with self.database.write() as session:
            return file_service.record(session, self.blobs, received, caller="someone", now=NOW).id

    def delete_file(self, file_id: str) -> None:
        with self.database.write() as session:
            files.delete(session, file_id)

    def claimed(self) -> Lease:
        """Give the lease of a job that has just begun."""
        file_id = self.upload(b'{"prompt": "p", "completion": "c"}')
        with self.database.write() as session:
            file = files.get(session, file_id)
            spec = make_job_spec(FileRef(id=file.id, sha256=file.sha256, examples=1, file_type="jsonl"))
            jobs.create(session, NewJob("someone", spec, {}, "0" * 64), NOW)
            job = claims.claim(session, WorkerIdentity("w", "h", 1), (spec.base_model,), NOW)
            assert job is not None
            return Lease(job.id, job.token)

    def publish(self, lease: Lease, folder: Path) -> str:
        """Publish an adapter's folder and a result file as the worker does; give the model's name."""
        adapter = store_adapter(self.blobs, folder)
        results = StoredResults(self.blobs.put_bytes(b"step,train_loss\n1,0.5\n"), ("step", "train_loss"))
        name = f"ft:tiny:local::{lease.job_id}"
        publication = Publication(adapter, name, "the completions", 1, {})
        Claim(self.database, self.blobs, lease, lease_ttl_s=30).publish(publication, results, AttemptEnd())
        return name

    def checkpoint(self, lease: Lease, folder: Path, step: int) -> AdapterRef:
        """Report an adapter's folder as a checkpoint, as the worker does."""
        ref = AdapterRef(
            name=f"ft:tiny:local::{lease.job_id}:ckpt-step-{step}",
            adapter_sha256=(adapter := store_adapter(self.blobs, folder)).sha256,
        )
        checkpoint = StoredCheckpoint(step, ref.name, adapter, {})
        Claim(self.database, self.blobs, lease, lease_ttl_s=30).report(checkpoints=[checkpoint])
        return ref

    def fail(self, lease: Lease) -> None:
        """End a job without a model."""
        with self.database.write() as session:
            leases.fail(session, lease, JobError("loss_not_finite", "it is not finite"), AttemptEnd(), NOW)

    def file_ref(self, lease: Lease) -> FileRef:
        """Give the file that a job trains on."""
        with self.database.read() as session:
            file = files.get(session, jobs.get(session, lease.job_id).training_file_id)
            return FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type="jsonl")

    def delete_model(self, name: str) -> int:
        with self.database.write() as session:
            return let_go(session, adapters.delete(session, name).digests)

    def delete_job(self, job_id: str) -> None:
        with self.database.write() as session:
            job_deletion.delete(session, job_id)

    def age(self, seconds: int) -> None:
        """Make all blobs as old as if so many seconds had gone by."""
        with self.database.write() as session:
            session.execute(update(BlobRecord).values(touched_at=BlobRecord.touched_at - seconds))

    def freed_too_early(self, grace_s: int) -> set[str]:
        """Give what is being freed although it was stored or let go of within the grace."""
        young = BlobRecord.touched_at > int(time.time()) - grace_s
        with self.database.read() as session:
            return set(session.scalars(select(BlobRecord.sha256).where(BlobRecord.state == BlobState.DELETING, young)))

    def job_ids(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(JobRecord.id).order_by(JobRecord.id)))

    def live_models(self) -> list[str]:
        with self.database.read() as session:
            query = select(AdapterRecord.name).where(AdapterRecord.state == AdapterState.LIVE)
            return list(session.scalars(query.order_by(AdapterRecord.name)))

    def file_ids(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(FileRecord.id).order_by(FileRecord.id)))

    def referenced(self) -> set[str]:
        with self.database.read() as session:
            return set(session.scalars(select(BLOB_REFERENCES.c.sha256)))

    def owned(self) -> set[str]:
        """Give the digests of what somebody can be named for who needs it."""
        with self.database.read() as session:
            return set(owners_of(session, self.rows().keys() | self.referenced()))

    def rows(self) -> dict[str, BlobState]:
        with self.database.read() as session:
            return {row.sha256: row.state for row in session.scalars(select(BlobRecord))}

    def objects(self) -> set[str]:
        return {stored.sha256 for stored in self.blobs.list_objects()}

    def lost(self) -> set[str]:
        """Give what is referred to and is not there: it must be nothing, at any moment."""
        return {sha256 for sha256 in self.referenced() if not self.blobs.exists(sha256)}
