"""Jobs made again: what must still be there and be the same for it, and the job that comes of it."""

from functools import partial

from pydantic import ConfigDict

from app.fine_tuning import service
from app.fine_tuning.repetition import RequestOrigin, record_once
from app.fine_tuning.service import Draft
from app.http.wire import Body
from app.tokenizers import imported_of
from core.base_models.registry import Registry
from core.errors import BlobNotFound, FileNotStored, RerunImpossible
from core.jobs.spec import FileRef, JobSpec
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store import adapters, files, jobs, manifests
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.store.jobs import NewJob
from core.store.tables import JobRecord


class RerunCreate(Body):
    """A rerun as a request, by which its repetitions are known. It is no client's body: the route has none."""

    model_config = ConfigDict(strict=True)

    rerun_of: str


def make_draft(
    session: Session, job_id: str, *, settings: Settings, registry: Registry, blobs: BlobStore, now: int
) -> Draft:
    """Specify a job as another one was, and estimate it; reads the files, so no other writer may have to wait for it.

    Raises:
        JobNotFound: there is no such job.
        RerunImpossible: something that decided its result is gone or has become another, or there is no result.
        BlobDamaged: a file's bytes have changed in the store.
        ModelNotFound, BaseModelNotReady: the deployment does not train this base model, or not yet.
        JobDoesNotFit: the machine has too little memory for it.
    """
    job = jobs.get(session, job_id)
    _require_weights(session, job, blobs)
    spec = JobSpec.model_validate(job.spec)
    entry = service.find_base(session, settings, registry, spec.base_model)
    _require_base(settings, job_id, spec)
    _require_start(session, job_id, spec)
    validation = spec.validation_file
    again = spec.model_copy(
        update={
            "training_file": _find_file(session, job_id, spec.training_file),
            "validation_file": None if validation is None else _find_file(session, job_id, validation),
        }
    )
    for file in filter(None, (again.training_file, again.validation_file)):
        try:
            with said_of(f"file {file.id}"):
                blobs.open(file.sha256).close()  # which verifies every byte
        except BlobNotFound as error:
            raise RerunImpossible(job_id, f"the bytes of its file {file.id} are gone from the store") from error
    return service.estimated(session, again, entry, settings=settings, blobs=blobs, now=now)


def create(session: Session, job_id: str, draft: Draft, origin: RequestOrigin, *, now: int) -> JobRecord:
    """Record the queued job, or give the one that an earlier attempt of this request made.

    It has no suffix, so it makes no version of a family, and no metadata.

    Raises:
        FileNotStored, InvalidParameter: a file, or the adapter to go on from, was deleted since the draft.
        IdempotencyMismatch: the key was used with another body.
        IdempotencyInProgress: the key is being used at this moment.
    """
    make = partial(NewJob, origin.caller, draft.spec, estimate=draft.estimate, rerun_of=job_id)
    return record_once(session, RerunCreate(rerun_of=job_id), origin, now, make)


def _require_weights(session: Session, job: JobRecord, blobs: BlobStore) -> None:
    if job.status is not JobStatus.SUCCEEDED:
        raise RerunImpossible(job.id, f"it has not succeeded ({job.status.value}), so there is nothing to compare with")
    if manifests.find_weights(manifests.read(session, job.id), blobs) is None:
        raise RerunImpossible(job.id, "an earlier version ran it, and its model, whose weights would tell, is gone")


def _require_base(settings: Settings, job_id: str, spec: JobSpec) -> None:
    fingerprint = imported_of(settings, spec.base_model).fingerprint
    if spec.base_model_fingerprint is None:
        raise RerunImpossible(job_id, f"it was made before it was kept which {spec.base_model} it is trained on")
    if spec.base_model_fingerprint != fingerprint:
        raise RerunImpossible(
            job_id,
            f"it was trained on {spec.base_model} with the fingerprint {spec.base_model_fingerprint[:12]}, and here "
            f"that has {fingerprint[:12]}; import the same base model",
        )


def _require_start(session: Session, job_id: str, spec: JobSpec) -> None:
    start = spec.continue_from
    if start is None:
        return
    served = adapters.find_served(session, start.name)
    if served is None or served.adapter_sha256 != start.adapter_sha256:
        raise RerunImpossible(job_id, f"{start.name}, which it went on from, was deleted")


def _find_file(session: Session, job_id: str, ref: FileRef) -> FileRef:
    """Give a file of the same bytes: the same one, or where it was deleted one that was uploaded again."""
    try:
        file = files.get(session, ref.id)
    except FileNotStored:
        found = files.find_same(session, ref.sha256, ref.file_type)
        if found is None:
            raise RerunImpossible(
                job_id, f"its file {ref.id} was deleted; upload the same bytes again (SHA-256 {ref.sha256})"
            ) from None
        file = found
    return ref.model_copy(update={"id": file.id})
