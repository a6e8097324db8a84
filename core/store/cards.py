"""Reads what a model's card is made of: its job's manifest, and the newest evaluation that asked it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from core.base_models.registry import Registry
from core.errors import ModelNotFound
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.provenance.card import model_card
from core.provenance.card_parts import CardEvaluation, CardScore
from core.provenance.imported_card import imported_card
from core.serving.adapter_format import MANIFEST_LIMIT_BYTES, parse_manifest
from core.store import adapters, imports, manifests
from core.store.adapters import ServedAdapter
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.store.tables import CheckpointRecord, JobAdapterRecord, JobRecord


def read(session: Session, registry: Registry, blobs: BlobStore, name: str) -> str:
    """Give the card of a fine-tuned model or of a checkpoint, in Markdown.

    Raises:
        ModelNotFound: there is no model of this name, or it was deleted.
        BlobNotFound, BlobDamaged, AdapterInvalid: it was imported, and its manifest cannot be read.
    """
    served, job_id = adapters.find_served(session, name), adapters.find_job_id(session, name)
    if served is None or job_id is None:
        raise ModelNotFound(name)
    base = registry.get(served.base_model) if served.base_model in registry.names else None
    evaluation = find_evaluation(session, name, served)
    imported = imports.find_specs(session, [job_id]).get(job_id)
    if imported is not None:
        digest = served.adapter_sha256
        manifest = parse_manifest(read_adapter_manifest(blobs, name, digest))
        return imported_card(name, imported, manifest, digest, base, evaluation)
    step = session.scalar(select(CheckpointRecord.step).where(CheckpointRecord.name == name))
    return model_card(name, manifests.read(session, job_id), base, evaluation, checkpoint_step=step)


def read_adapter_manifest(blobs: BlobStore, name: str, digest: str) -> bytes:
    """Give the bytes of the manifest of the adapter that serves a model.

    Raises:
        BlobNotFound, BlobDamaged: they are gone, or have changed.
    """
    with said_of(f"the manifest of {name}"), blobs.open(digest) as file:
        return file.read(MANIFEST_LIMIT_BYTES)


def find_evaluation(session: Session, name: str, served: ServedAdapter) -> CardEvaluation | None:
    """Find what the newest evaluation that asked a model says of it and of its base model; None: none has."""
    job = session.scalar(
        select(JobRecord)
        .join(JobAdapterRecord, JobAdapterRecord.job_id == JobRecord.id)
        .where(JobAdapterRecord.adapter_sha256 == served.adapter_sha256, JobRecord.status == JobStatus.SUCCEEDED)
        .where(JobRecord.kind == JobKind.EVALUATION)
        .order_by(JobRecord.id.desc())
        .limit(1)
    )
    if job is None or job.result is None:
        return None
    told = (served.base_model, name)
    models = job.result["models"]
    return CardEvaluation(
        id=job.id,
        rows=job.result["rows"],
        # of other models a card says nothing
        text=job.result["text"] if all(one["model"] in told for one in models) else "",
        scores=tuple(_score(one["model"], score) for one in models if one["model"] in told for score in one["scores"]),
    )


def _score(model: str, score: Mapping[str, Any]) -> CardScore:
    interval = score["interval"] or {}
    return CardScore(
        model=model, metric=score["metric"], mean=score["mean"], low=interval.get("low"), high=interval.get("high")
    )
