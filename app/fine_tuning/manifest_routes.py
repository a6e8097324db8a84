"""/v1/fine_tuning/jobs/{id}/manifest, rerun, compare: what decided a job's result, whether it can be had again."""

import time
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query

from app.fine_tuning import reruns
from app.fine_tuning.repetition import RequestOrigin, find_earlier
from app.fine_tuning.routes import job_out
from app.fine_tuning.schemas import JobOut
from app.http.auth import CallerDep, require_caller
from app.http.deps import BlobsDep, DatabaseDep, DoorbellDep, ReadSession, RegistryDep, SettingsDep
from app.http.description.links import leads_to
from app.http.json_body import JsonRoute, require_no_body
from app.http.route_errors import WRITING, raises
from core.errors import (
    BaseModelNotReady,
    BlobDamaged,
    FileNotStored,
    IdempotencyInProgress,
    IdempotencyMismatch,
    JobDoesNotFit,
    JobNotFound,
    ModelNotFound,
    RerunImpossible,
)
from core.provenance.comparison import JobComparison, compare
from core.provenance.manifest import JobManifest
from core.store import manifests

router = APIRouter(
    prefix="/v1/fine_tuning/jobs",
    tags=["fine-tuning"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.get("/{job_id}/manifest")
@raises(JobNotFound)
def get_manifest(job_id: str, session: ReadSession) -> JobManifest:
    """Give a job's birth certificate: data and base by their digests, settings with their origins, machines, parents.

    What was not recorded is null: of a job that has not succeeded what only its trainer knows, and of one that an
    earlier version ran what that did not keep.
    """
    return manifests.read(session, job_id)


@router.get("/{job_id}/compare")
@raises(JobNotFound)
def compare_jobs(
    job_id: str, other: Annotated[str, Query(alias="with", description="Id of another job.")], session: ReadSession
) -> JobComparison:
    """Give all differences between two jobs, in settings, data, base model, environment and results."""
    return compare(manifests.read(session, job_id), manifests.read(session, other))


@router.post(
    "/{job_id}/rerun",
    responses=leads_to("job_id", "get_job", "cancel_job"),
    dependencies=[Depends(require_no_body)],
)
@raises(
    *WRITING,
    JobNotFound,
    RerunImpossible,
    BlobDamaged,
    ModelNotFound,
    BaseModelNotReady,
    FileNotStored,
    JobDoesNotFit,
    IdempotencyMismatch,
    IdempotencyInProgress,
)
def rerun_job(
    job_id: str,
    database: DatabaseDep,
    blobs: BlobsDep,
    background: BackgroundTasks,
    settings: SettingsDep,
    registry: RegistryDep,
    doorbell: DoorbellDep,
    caller: CallerDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0)] = 0,
) -> JobOut:
    """Queue a job that makes one again which has succeeded: the same bytes, base model, settings and seed.

    When it has succeeded, ``rerun.same_weights`` says whether its adapter's weights are the same bits, and
    ``rerun.may_be_why`` what differs that can change a bit, as a library's version. It has no suffix and no metadata.
    """
    now = int(time.time())
    origin = RequestOrigin.of(caller, idempotency_key, is_retry=x_stainless_retry_count > 0)
    with database.read() as session:
        earlier = find_earlier(session, reruns.RerunCreate(rerun_of=job_id), origin, now)
        if earlier is not None:
            return job_out(session, settings, earlier)
        draft = reruns.make_draft(session, job_id, settings=settings, registry=registry, blobs=blobs, now=now)
    with database.write() as session:
        created = job_out(session, settings, reruns.create(session, job_id, draft, origin, now=now))
    background.add_task(doorbell.notify, created.id)
    return created
