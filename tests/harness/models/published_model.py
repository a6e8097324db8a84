"""Puts a fine-tuned model into a database without training one."""

from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.spec import FileRef, JobSpec, LoraSpec
from core.store import files, jobs, leases
from core.store.blobs import Blob
from core.store.db import Session
from core.store.files import NewFile
from core.store.jobs import NewJob


def publish(session: Session, name: str, digest: str = "b" * 64, base_model: str = "tiny") -> None:
    """Put a fine-tuned model into the database the way a worker does."""
    blob = Blob("c" * 64, 1)
    new = NewFile("anonymous", "f", "fine-tune", blob, "jsonl", example_format="prompt_completion", examples=1)
    file = files.create(session, new, 1)
    spec = JobSpec(
        base_model=base_model,
        training_file=FileRef(id=file.id, sha256=file.sha256, examples=1, file_type="jsonl"),
        validation_file=None,
        n_epochs=1,
        batch_size=1,
        learning_rate=1e-3,
        learning_rate_multiplier=1,
        lora=LoraSpec(),
        prompt_loss_weight=0,
        train_on="all_assistant",
        prompt_format=None,
        max_length=64,
        over_length="drop",
        seed=0,
    )
    job = jobs.create(session, NewJob("anonymous", spec, {}, "d" * 64), 1)
    claimed = leases.claim(session, leases.WorkerIdentity("w", "h", 1), (base_model,), 2)
    assert claimed is not None
    publication = Publication(StoredAdapter(digest, 1), name, "", trained_tokens=1, result={})
    leases.publish(session, leases.Lease(job.id, claimed.token), publication, AttemptEnd(), 3)
