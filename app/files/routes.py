"""/v1/files: upload, list, look up, download and delete training data."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, BinaryIO, Final

from anyio import CancelScope
from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.files import service as file_service
from app.files.schemas import FileOut, FilesQuery
from app.http.auth import CallerDep, require_caller
from app.http.deps import BlobsDep, DatabaseDep, ReadSession, RuntimeDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.multipart import read_form
from app.http.route_errors import READING, WRITING, raises
from app.http.runtime import ApiRuntime
from app.http.wire import Deletion, DryRun, Page, page
from core.errors import (
    BlobDamaged,
    BlobNotFound,
    FileExpired,
    FileInUse,
    FileNotStored,
    FileTooLarge,
    FileTypeUnclear,
    ParquetNotInstalled,
)
from core.store import files

router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[Depends(require_caller)])

_CHUNK_BYTES: Final = 2**18
# The route reads the form itself, so the description has to be told of it.
_UPLOAD_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [file_service.PURPOSE]},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}
_BYTES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(
    "",
    openapi_extra=_UPLOAD_FORM,
    responses=leads_to("file_id", "get_file", "download_file", "get_file_report", "delete_file"),
)
@raises(*WRITING, FileTooLarge, FileTypeUnclear, ParquetNotInstalled)
async def upload_file(request: Request, caller: CallerDep, runtime: RuntimeDep) -> FileOut:
    """Upload a file of examples: JSONL, CSV with a header, or Parquet, told by the name's extension.

    A line of JSONL is {"prompt", "completion"}, {"messages"}, or an object of columns for a prompt format; a row
    of a table is the same by its columns' names. A file with problems gets the status "error", and status_details
    names the lines: the line on which a record of CSV begins, or the row of Parquet, from 1.
    """
    limit_bytes = runtime.settings.max_upload_bytes
    async with _receiving(runtime) as upload:
        form = await read_form(request, upload, limit_bytes=limit_bytes)
        form.finish()
        file_service.check_fields(form.fields)
        received = await run_in_threadpool(upload.finish)
    return await run_in_threadpool(_record, runtime, received, caller)


@asynccontextmanager
async def _receiving(runtime: ApiRuntime) -> AsyncGenerator[file_service.Upload, None]:
    """Open an upload in a worker thread, and close it in one of the same few.

    FastAPI's way would close each upload in a thread of its own, without a limit: so many that break off at once
    would leave as many threads.
    """
    receiving = file_service.receive(runtime.blobs, runtime.settings)
    upload = await run_in_threadpool(receiving.__enter__)
    try:
        yield upload
    finally:
        with CancelScope(shield=True):
            await run_in_threadpool(receiving.__exit__, None, None, None)


def _record(runtime: ApiRuntime, received: file_service.Received, caller: str) -> FileOut:
    with runtime.database.write() as session:
        return FileOut.of(file_service.record(session, runtime.blobs, received, caller=caller, now=int(time.time())))


@router.get("", responses=leads_to("file_id", "get_file", by=FIRST_ID))
def list_files(query: Annotated[FilesQuery, Query()], session: ReadSession) -> Page[FileOut]:
    """List files, those of jobs' results among them, newest first unless ``order`` is asc."""
    rows, has_more = files.list_page(
        session, after=query.after, limit=query.limit, order=query.order, purpose=query.purpose
    )
    return page([FileOut.of(row) for row in rows], [row.id for row in rows], has_more)


@router.get("/{file_id}")
@raises(FileNotStored, FileExpired)
def get_file(file_id: str, session: ReadSession) -> FileOut:
    """Look up a file."""
    return FileOut.of(files.get(session, file_id))


@router.delete("/{file_id}")
@raises(*WRITING, FileNotStored, FileExpired, FileInUse)
def delete_file(file_id: str, database: DatabaseDep, dry_run: DryRun = False) -> Deletion:
    """Delete a file that no unfinished job uses; ``frees_bytes`` are freed after the grace, LORAMILL_GC_GRACE_H."""
    carry_out = database.rehearse if dry_run else database.write_freeing
    freed = carry_out(lambda session: files.delete(session, file_id))
    return Deletion.of("file", file_id, freed.bytes, freed.keeps, dry_run=dry_run)


@raises(FileNotStored, FileExpired, BlobNotFound, BlobDamaged, *READING)
async def _open_content(file_id: str, database: DatabaseDep, blobs: BlobsDep) -> AsyncGenerator[BinaryIO, None]:
    content = await run_in_threadpool(file_service.open_content, database, blobs, file_id)
    with content:  # until the response was sent; closing a file that was read takes no thread
        yield content


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=_BYTES)
def download_file(content: Annotated[BinaryIO, Depends(_open_content)]) -> StreamingResponse:
    """Download a file's bytes, as they were uploaded or as a job wrote them; none where they have changed on disk."""
    return StreamingResponse(
        _chunks_of(content), media_type="application/octet-stream", headers={"content-disposition": "attachment"}
    )


async def _chunks_of(content: BinaryIO) -> AsyncGenerator[bytes, None]:
    while chunk := await run_in_threadpool(content.read, _CHUNK_BYTES):
        yield chunk
