"""Puts a fine-tuned model into a database without training one."""

from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.spec import FileRef
from core.store import files, jobs
from core.store.blobs import Blob
from core.store.db import Session
from core.store.files import NewFile
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from tests.harness.job_specs import make_job_spec


def publish(
    session: Session, name: str, digest: str = "b" * 64, base_model: str = "tiny", suffix: str | None = None
) -> None:
    """Put a fine-tuned model into the database the way a worker does.

    Args:
        suffix: of its family; the name has to have an organisation then, as ``ft:tiny:local:suffix:1``.
    """
    blob = Blob("c" * 64, 1)
    new = NewFile("anonymous", "f", "fine-tune", blob, "jsonl", example_format="prompt_completion", examples=1)
    file = files.create(session, new, 1)
    training_file = FileRef(id=file.id, sha256=file.sha256, examples=1, file_type="jsonl")
    spec = make_job_spec(training_file, base_model=base_model)
    job = jobs.create(session, NewJob("anonymous", spec, {}, "d" * 64, suffix), 1)
    claimed = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (base_model,), 2)
    assert claimed is not None
    publication = Publication(StoredAdapter(digest, 1, ()), name, "", trained_tokens=1, result={})
    leases.publish(session, leases.Lease(job.id, claimed.token), publication, AttemptEnd(), 3)
