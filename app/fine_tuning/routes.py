"""/v1/fine_tuning/jobs: create, list, look up, cancel, pause, resume, delete jobs; read their events, checkpoints."""

import re
import time
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from app.fine_tuning import service
from app.fine_tuning.repetition import RequestOrigin, find_earlier
from app.fine_tuning.schemas import CheckpointOut, CheckpointsQuery, EventOut, EventsQuery, JobCreate, JobOut, Metadata
from app.http.auth import CallerDep, require_caller
from app.http.deps import (
    BlobsDep,
    DatabaseDep,
    DoorbellDep,
    EnginesDep,
    ReadSession,
    RegistryDep,
    SettingsDep,
    WriteSession,
)
from app.http.description.links import FIRST_ID, leads_to
from app.http.json_body import JsonRoute
from app.http.route_errors import WRITING, raises
from app.http.wire import Deletion, DryRun, Page, page
from core.errors import (
    BaseModelNotReady,
    FileNotStored,
    IdempotencyInProgress,
    IdempotencyMismatch,
    JobDoesNotFit,
    JobHasEnded,
    JobInUse,
    JobNotEnded,
    JobNotFound,
    ModelNotFound,
    UnsupportedParameter,
)
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store import adapters, events, jobs
from core.store.db import Session
from core.store.queue import control, waiting_line
from core.store.retention import job_deletion
from core.store.tables import JobRecord

router = APIRouter(
    prefix="/v1/fine_tuning/jobs",
    tags=["fine-tuning"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)

_METADATA: Final = TypeAdapter(Metadata)
_METADATA_KEY: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_METADATA_FILTER: Final = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "Pairs that a job must carry, as metadata[key]=value.",
            "schema": _METADATA.json_schema(),
        }
    ]
}


def _jobs_out(session: Session, settings: Settings, rows: Sequence[JobRecord]) -> list[JobOut]:
    places, now = waiting_line.places(session, rows), int(time.time())
    organization = settings.organization
    return [JobOut.of(job, organization=organization, queue_position=places.get(job.id), now=now) for job in rows]


def job_out(session: Session, settings: Settings, job: JobRecord) -> JobOut:
    """Give a job as the API shows it."""
    return _jobs_out(session, settings, [job])[0]


@router.post(
    "",
    responses=leads_to(
        "job_id",
        "get_job",
        "cancel_job",
        "pause_job",
        "resume_job",
        "list_events",
        "list_checkpoints",
        "get_manifest",
        "rerun_job",
        "compare_jobs",
        "delete_job",
    ),
)
@raises(
    *WRITING,
    ModelNotFound,
    BaseModelNotReady,
    FileNotStored,
    JobNotFound,
    JobDoesNotFit,
    IdempotencyMismatch,
    IdempotencyInProgress,
)
def create_job(
    request: JobCreate,
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
    """Queue a fine-tuning job.

    Every "auto" is resolved at once and echoed, with an estimate of what the job will take. One that the
    machine's memory cannot hold is refused. The same Idempotency-Key gives the same job again.
    """
    now = int(time.time())
    origin = RequestOrigin.of(caller, idempotency_key, is_retry=x_stainless_retry_count > 0)
    with database.read() as session:
        job = find_earlier(session, request, origin, now)
        if job is not None:
            return job_out(session, settings, job)
        draft = service.make_draft(session, request, settings=settings, registry=registry, blobs=blobs, now=now)
    with database.write() as session:  # apart, because counting tokens must not keep the workers' heartbeats waiting
        job = service.create(session, request, draft, origin, now=now)
        created = job_out(session, settings, job)
    background.add_task(doorbell.notify, created.id)
    return created


def _metadata_filter(request: Request) -> dict[str, str]:
    """Read ``metadata[key]=value`` pairs, which no typed parameter can express.

    Raises:
        RequestValidationError: there are more, or longer ones, than a job can have.
        UnsupportedParameter: the query has something else.
    """
    pairs = {}
    for name, value in request.query_params.multi_items():
        match = _METADATA_KEY.fullmatch(name)
        if match:
            pairs[match[1]] = value
        elif name not in ("after", "limit"):
            raise UnsupportedParameter(name)
    try:
        return _METADATA.validate_python(pairs)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([one | {"loc": ("query", "metadata", *one["loc"])} for one in found]) from error


@router.get("", openapi_extra=_METADATA_FILTER, responses=leads_to("job_id", "get_job", by=FIRST_ID))
def list_jobs(
    session: ReadSession,
    settings: SettingsDep,
    metadata: Annotated[dict[str, str], Depends(_metadata_filter)],
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[JobOut]:
    """List jobs, newest first; ``metadata[key]=value`` keeps those that carry the pair."""
    rows, has_more = jobs.list_page(session, after=after, limit=limit, metadata=metadata)
    return page(_jobs_out(session, settings, rows), [row.id for row in rows], has_more)


@router.get("/{job_id}")
@raises(JobNotFound)
def get_job(job_id: str, database: DatabaseDep, settings: SettingsDep) -> JobOut:
    """Look up a job."""
    # Clients poll this. A session of its own costs one change of threads; as a dependency it would cost three.
    with database.read() as session:
        return job_out(session, settings, jobs.get(session, job_id))


@router.delete("/{job_id}")
@raises(*WRITING, JobNotFound, JobNotEnded, JobInUse)
def delete_job(
    job_id: str, database: DatabaseDep, engines: EnginesDep, afterwards: BackgroundTasks, dry_run: DryRun = False
) -> Deletion:
    """Delete a job that has ended, with its events, checkpoints and result files.

    It is refused where something that stays needs it: its model, an alias, an experiment, a job that goes on from it
    or makes it again. ``frees_bytes`` are freed after the grace, LORAMILL_GC_GRACE_H.
    """
    carry_out = database.rehearse if dry_run else database.write_freeing
    gone = carry_out(lambda session: job_deletion.delete(session, job_id))
    if not dry_run:
        afterwards.add_task(engines.unload, gone.base_model, gone.digests)  # after the commit
    return Deletion.of("fine_tuning.job", job_id, gone.freed.bytes, gone.freed.keeps, dry_run=dry_run)


@router.post("/{job_id}/cancel")
@raises(*WRITING, JobNotFound)
def cancel_job(job_id: str, database: DatabaseDep, settings: SettingsDep) -> JobOut:
    """Cancel a job: at once while it waits or is paused, within seconds while it runs. An ended job stays as it is."""

    def cancel(session: Session) -> JobOut:
        return job_out(session, settings, control.cancel(session, job_id, int(time.time())))

    return database.write_freeing(cancel)  # a job that no longer trains gives its disk back


@router.post("/{job_id}/pause")
@raises(JobNotFound, JobHasEnded)
def pause_job(job_id: str, session: WriteSession, settings: SettingsDep) -> JobOut:
    """Pause a job: at once while it waits, within seconds while it runs.

    A running job writes a checkpoint first; until then it is still `running`, with `pausing` true. A paused job
    stays as it is; one that has ended is refused.
    """
    return job_out(session, settings, control.pause(session, job_id, int(time.time())))


@router.post("/{job_id}/resume")
@raises(JobNotFound, JobHasEnded)
def resume_job(
    job_id: str, session: WriteSession, settings: SettingsDep, background: BackgroundTasks, doorbell: DoorbellDep
) -> JobOut:
    """Queue a paused job again; it goes on from its newest checkpoint.

    A pause that has not taken effect yet is withdrawn. A job that is not paused stays as it is; one that has
    ended is refused.
    """
    job = control.resume(session, job_id, int(time.time()))
    if job.status is JobStatus.QUEUED:
        background.add_task(doorbell.notify, job_id)
    return job_out(session, settings, job)


@router.get("/{job_id}/events")
@raises(JobNotFound)
def list_events(job_id: str, query: Annotated[EventsQuery, Query()], session: ReadSession) -> Page[EventOut]:
    """List a job's events, newest first."""
    jobs.get(session, job_id)
    rows, has_more = events.list_page(session, job_id, after=query.after, limit=query.limit)
    return page([EventOut.of(row) for row in rows], [row.id for row in rows], has_more)


@router.get("/{job_id}/checkpoints")
@raises(JobNotFound)
def list_checkpoints(
    job_id: str, query: Annotated[CheckpointsQuery, Query()], session: ReadSession
) -> Page[CheckpointOut]:
    """List a job's checkpoints, last step first; each can be used as a model."""
    jobs.get(session, job_id)
    rows, has_more = adapters.list_checkpoints(session, job_id, query.after, query.limit)
    return page([CheckpointOut.of(row) for row in rows], [row.id for row in rows], has_more)
