"""Puts a fine-tuned model into a database without training one."""

from core.jobs.spec import FileRef, JobSpec, LoraSpec
from core.store import files, jobs, leases
from core.store.db import Session
from core.store.tables import FileStatus


def publish(session: Session, name: str, digest: str = "b" * 64, base_model: str = "tiny") -> None:
    """Put a fine-tuned model into the database the way a worker does."""
    file = files.create(
        session,
        caller="anonymous",
        filename="f",
        purpose="fine-tune",
        bytes=1,
        sha256="c" * 64,
        status=FileStatus.PROCESSED,
        status_details=None,
        file_type="jsonl",
        example_format="prompt_completion",
        columns=None,
        examples=1,
        now=1,
    )
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
    job = jobs.create(
        session, caller="anonymous", spec=spec, requested={}, request_sha256="d" * 64, suffix=None, metadata=None, now=1
    )
    claimed = leases.claim(session, owner="w", host="h", pid=1, base_models=(base_model,), now=2)
    assert claimed is not None
    leases.publish(
        session,
        job.id,
        claimed.token,
        adapter_sha256=digest,
        bytes=1,
        name=name,
        trained_on="",
        trained_tokens=1,
        result={},
        now=3,
    )
