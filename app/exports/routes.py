"""/v1/models/{name}/exports and /v1/models/exports: have models exported; list, look up, cancel, download, delete."""

import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.exports import service
from app.exports.schemas import ExportAsked, ExportCreate, ExportOut
from app.fine_tuning.repetition import RequestOrigin, find_earlier, record_once
from app.fine_tuning.schemas import EventOut, EventsQuery
from app.http.auth import CallerDep, require_caller
from app.http.deps import BlobsDep, DatabaseDep, DoorbellDep, ReadSession, SettingsDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.json_body import JsonRoute
from app.http.route_errors import READING, WRITING, raises
from app.http.wire import Deletion, DryRun, Page, page
from app.models.downloads.routes import TAR_ANSWERS, IfRange, Range, open_range, send
from app.models.downloads.service import Download, OpenedRange
from core.errors import (
    AdapterInvalid,
    BaseModelNotReady,
    BaseModelNotServed,
    BaseModelProtected,
    BlobDamaged,
    BlobNotFound,
    ExportNotFound,
    ExportNotReady,
    IdempotencyInProgress,
    IdempotencyMismatch,
    ModelNotFound,
    RangeNotSatisfiable,
)
from core.jobs.kind import JobKind
from core.store import events, exports, jobs
from core.store.db import Session
from core.store.jobs import NewJob
from core.store.queue import control
from core.store.references.owners import Freed

router = APIRouter(prefix="/v1/models", tags=["exports"], dependencies=[Depends(require_caller)], route_class=JsonRoute)

_KIND = JobKind.EXPORT


@router.post(
    "/{name:path}/exports",
    responses=leads_to("export_id", "get_export", "cancel_export", "list_export_events", "delete_export"),
)
@raises(
    *WRITING,
    ModelNotFound,
    BaseModelProtected,
    BaseModelNotServed,
    BaseModelNotReady,
    BlobNotFound,
    BlobDamaged,
    AdapterInvalid,
    IdempotencyMismatch,
    IdempotencyInProgress,
)
def create_export(
    name: str,
    request: ExportCreate,
    database: DatabaseDep,
    blobs: BlobsDep,
    background: BackgroundTasks,
    settings: SettingsDep,
    doorbell: DoorbellDep,
    caller: CallerDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0)] = 0,
) -> ExportOut:
    """Queue an export of a fine-tuned model: peft, merged, gguf or vllm.

    The result is tried against the adapter before the export succeeds: its numbers one by one, and its logits on kept
    training prompts, held-out ones and general text. The same Idempotency-Key gives the same export again.
    """
    now = int(time.time())
    asked = ExportAsked(model=name, **request.model_dump(exclude_unset=True))
    origin = RequestOrigin.of(caller, idempotency_key, is_retry=x_stainless_retry_count > 0, kind=_KIND)
    with database.read() as session:
        job = find_earlier(session, asked, origin, now)
        if job is not None:
            return service.describe(session, [job])[0]
        spec = service.specify(session, asked, settings=settings, blobs=blobs)
    with database.write() as session:  # apart, because choosing prompts must not keep the workers' heartbeats waiting
        job = record_once(session, asked, origin, now, partial(NewJob, caller, spec))
        [created] = service.describe(session, [job])
    background.add_task(doorbell.notify, created.id)
    return created


@router.get("/exports", responses=leads_to("export_id", "get_export", by=FIRST_ID))
def list_exports(
    session: ReadSession, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Page[ExportOut]:
    """List exports of all models, newest first."""
    rows, has_more = jobs.list_page(session, after=after, limit=limit, kind=_KIND)
    return page(service.describe(session, rows), [row.id for row in rows], has_more)


@router.get("/exports/{export_id}")
@raises(ExportNotFound)
def get_export(export_id: str, database: DatabaseDep) -> ExportOut:
    """Look up an export; once it has succeeded, with its files and what trying it found."""
    with database.read() as session:
        return service.describe(session, [jobs.get(session, export_id, _KIND)])[0]


@router.post("/exports/{export_id}/cancel")
@raises(*WRITING, ExportNotFound)
def cancel_export(export_id: str, database: DatabaseDep) -> ExportOut:
    """Cancel an export: at once while it waits, within seconds while it runs. An ended one stays as it is."""

    def cancel(session: Session) -> ExportOut:
        return service.describe(session, [control.cancel(session, export_id, int(time.time()), _KIND)])[0]

    return database.write_freeing(cancel)


@router.get("/exports/{export_id}/events")
@raises(ExportNotFound)
def list_export_events(export_id: str, query: Annotated[EventsQuery, Query()], session: ReadSession) -> Page[EventOut]:
    """List an export's events, newest first."""
    jobs.get(session, export_id, _KIND)
    rows, has_more = events.list_page(session, export_id, after=query.after, limit=query.limit)
    return page([EventOut.of(row, "model.export.event") for row in rows], [row.id for row in rows], has_more)


@router.delete("/exports/{export_id}")
@raises(*WRITING, ExportNotFound)
def delete_export(export_id: str, database: DatabaseDep, dry_run: DryRun = False) -> Deletion:
    """Delete the files of an export, whose record stays; one that has not ended has none.

    ``frees_bytes`` are freed after the grace, LORAMILL_GC_GRACE_H; ``keeps`` says what stays, and because of what.
    """

    def drop(session: Session) -> Freed:
        jobs.get(session, export_id, _KIND)
        return exports.drop_files(session, export_id)

    carry_out = database.rehearse if dry_run else database.write_freeing
    freed = carry_out(drop)
    return Deletion.of("model.export", export_id, freed.bytes, freed.keeps, dry_run=dry_run)


@raises(ExportNotFound, ExportNotReady, BlobNotFound, BlobDamaged, AdapterInvalid, RangeNotSatisfiable, *READING)
async def _open(
    export_id: str, database: DatabaseDep, blobs: BlobsDep, asked: Range = None, only_if: IfRange = None
) -> AsyncGenerator[OpenedRange, None]:
    def find() -> Download:
        with database.read() as session:
            return service.find_download(session, export_id)

    opened = await open_range(await run_in_threadpool(find), blobs, asked, only_if)
    try:
        yield opened
    finally:
        opened.close()


@router.get("/exports/{export_id}/download", response_class=StreamingResponse, responses=TAR_ANSWERS)
def download_export(opened: Annotated[OpenedRange, Depends(_open)]) -> StreamingResponse:
    """Download what an export made, as a tar, from any byte on."""
    return send(opened)
