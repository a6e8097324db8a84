"""Fine-tuned models of a harness' base model that can be exported, and exports that have ended."""

import json
from pathlib import Path
from typing import Any

from core.jobs.attempt import AttemptEnd, Publication
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import FileRef, LoraSpec
from core.serving.adapter_format import CONFIG, WEIGHTS, AdapterOrigin, FileDigest, TrainedPrompt, write_manifest
from core.store import exports, files, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from tests.app.conftest import BASE, ApiHarness
from tests.core.exports.test_report import report
from tests.harness.job_specs import make_job_spec
from worker.jobs.blob_transfer import store_adapter

PEFT_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}


def publish(
    harness: ApiHarness,
    folder: Path,
    *,
    name: str = "ft:tiny:local::1",
    file_id: str | None = None,
    config: dict[str, Any] | None = None,
    **spec: Any,
) -> str:
    """Put a model into database and store as a worker does; give its name.

    Args:
        file_id: that it was trained on; None: one that is gone.
        config: what PEFT's config has beside the usual.
    """
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / CONFIG).write_text(json.dumps(PEFT_CONFIG | (config or {})))
    origin = AdapterOrigin(
        base_model=BASE,
        base_model_fingerprint="0" * 64,
        tokenizer_sha256="a" * 64,
        chat_template_sha256=None,
        example_format="prompt_completion",
        prompt_format=None,
        prompts=(TrainedPrompt(source="p1", text="p1", ids=(112, 49)),),
        job_id="ftjob-x",
        step=1,
        trained_on="",
        lora=LoraSpec(),
    )
    write_manifest(folder, origin)
    adapter = store_adapter(harness.blobs, folder)
    with harness.database.write() as session:
        ref = FileRef(id="file-gone", sha256="c" * 64, examples=1, file_type="jsonl")
        if file_id is not None:
            file = files.get(session, file_id)
            ref = FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type)
        else:
            new = files.NewFile("c", "f", "fine-tune", harness.blobs.put_bytes(b"x"), "jsonl")
            ref = ref.model_copy(update={"id": files.create(session, new, 1).id})
        job = jobs.create(session, NewJob("someone", make_job_spec(ref, **spec), {}, "d" * 64), 1)
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), 2)
        assert claimed is not None
        publication = Publication(adapter, name, "", trained_tokens=1, result={})
        leases.publish(session, Lease(job.id, claimed.token), publication, AttemptEnd(), 3)
    return name


def end_export(harness: ApiHarness, export_id: str, made: dict[str, bytes]) -> None:
    """End a queued export as a worker does."""
    stored = {name: harness.blobs.put_bytes(content) for name, content in made.items()}
    with harness.database.write() as session:
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), 2, kind=JobKind.EXPORT)
        assert claimed is not None
        assert claimed.id == export_id
        files_of = {name: FileDigest(sha256=blob.sha256, bytes=blob.bytes) for name, blob in stored.items()}
        exports.add_files(session, export_id, files_of)
        result = report().model_dump(mode="json")
        leases.conclude(session, Lease(export_id, claimed.token), JobEvent("done"), result, AttemptEnd(), 3)
