"""Adapters that came from elsewhere: each the result of a job of its own kind, which has ended when it is recorded.

What stands in the store by then is the caller's matter.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.ids import new_id, request_digest
from core.jobs.attempt import StoredAdapter
from core.jobs.imported import Checked, ImportSpec
from core.jobs.kind import JobKind
from core.jobs.spec import model_name
from core.jobs.status import JobStatus
from core.store.db import Session
from core.store.families import next_version
from core.store.references.rows import add_parts
from core.store.tables import AdapterRecord, AdapterState, JobRecord


@dataclass(frozen=True)
class NewImport:
    """An adapter whose files are verified, and stored already."""

    caller: str
    spec: ImportSpec
    requested: dict[str, Any]  # the form's fields as they were sent
    adapter: StoredAdapter
    organization: str
    suffix: str | None  # of the model's name


def record(session: Session, new: NewImport, now: int) -> AdapterRecord:
    """Record an adapter, which is served from the commit on; in a transaction that holds its files."""
    dumped = new.spec.model_dump(mode="json")
    canonical = json.dumps(dumped, sort_keys=True, separators=(",", ":"))
    job_id = new_id("import-")
    name = model_name(new.spec.base_model, new.organization, new.suffix, job_id)
    session.add(
        JobRecord(
            id=job_id,
            kind=JobKind.IMPORT,
            caller=new.caller,
            status=JobStatus.SUCCEEDED,
            spec=dumped,
            requested=new.requested,
            spec_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
            request_sha256=request_digest(new.requested),
            suffix=new.suffix,
            training_file_id="",  # none
            base_model=new.spec.base_model,
            fine_tuned_model=name,
            created_at=now,
            started_at=now,
            finished_at=now,
        )
    )
    session.flush()
    version = None if new.suffix is None else next_version(session, new.organization, new.suffix)
    adapter = AdapterRecord(
        id=new_id("adapter-"),
        job_id=job_id,
        token=0,
        name=name,
        base_model=new.spec.base_model,
        adapter_sha256=new.adapter.sha256,
        bytes=new.adapter.bytes,
        state=AdapterState.LIVE,
        organization=None if new.suffix is None else new.organization,
        suffix=new.suffix,
        version=version,
        created_at=now,
    )
    session.add(adapter)
    session.flush()
    add_parts(session, new.adapter.sha256, new.adapter.parts)
    return adapter


def get_spec(session: Session, name: str) -> ImportSpec:
    """Give what is known of a model that was imported, served or deleted."""
    job_id = select(AdapterRecord.job_id).where(AdapterRecord.name == name).scalar_subquery()
    spec = session.scalars(select(JobRecord.spec).where(JobRecord.id == job_id)).one()
    return ImportSpec.model_validate(spec)


def find_specs(session: Session, job_ids: Collection[str]) -> dict[str, ImportSpec]:
    """Give what is known of those of the jobs that are imports."""
    found = session.execute(
        select(JobRecord.id, JobRecord.spec).where(JobRecord.id.in_(job_ids), JobRecord.kind == JobKind.IMPORT)
    )
    return {job_id: ImportSpec.model_validate(spec) for job_id, spec in found}


def list_renderings(session: Session, job_ids: Collection[str]) -> dict[str, Checked]:
    """Say of the models of these jobs whether prompts are known to be fed as in training; those trained here are."""
    imported = find_specs(session, job_ids)
    return {job_id: imported[job_id].rendering if job_id in imported else "verified" for job_id in job_ids}
