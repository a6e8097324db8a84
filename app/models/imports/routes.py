"""/v1/models/import: an adapter from elsewhere becomes a model."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from anyio import CancelScope
from fastapi import APIRouter, BackgroundTasks, Depends, Request
from fastapi.concurrency import run_in_threadpool

from app.http.auth import CallerDep, require_caller
from app.http.deps import RuntimeDep
from app.http.description.links import leads_to
from app.http.multipart import read_form
from app.http.route_errors import WRITING, raises
from app.http.runtime import ApiRuntime
from app.models import service as models
from app.models.imports.schemas import ImportedModelOut
from app.models.imports.service import store_import, warm
from app.models.imports.upload import ImportUpload
from core.errors import BaseModelNotReady, BlobFreed, FileTooLarge, ImportRefused
from core.store import imports
from core.store.imports import NewImport
from core.store.references.rows import hold

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require_caller)])

MAX_FILES: Final = 3
_MAX_FIELD_BYTES: Final = 48 * 2**10  # of two templates
_TEXT: Final = {"type": "string"}
# The route reads the form itself, so the description has to be told of it.
_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "base_model": _TEXT,
                        "prompt_format": _TEXT,
                        "suffix": _TEXT | {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


@router.post("/import", openapi_extra=_FORM, responses=leads_to("name", "get_model", "download_model", "delete_model"))
@raises(*WRITING, ImportRefused, FileTooLarge, BaseModelNotReady, BlobFreed)
async def import_model(
    request: Request, caller: CallerDep, runtime: RuntimeDep, afterwards: BackgroundTasks
) -> ImportedModelOut:
    """Make a model of a LoRA adapter in PEFT's format: as a tar, a tar.gz or a zip, or its files, each as `file`.

    Verified as our own are. An adapter that was downloaded from Loramill carries its manifest; of any other,
    `base_model` names what it was trained from, and `prompt_format` how prompts are written: the JSON of an object with
    the templates `prompt` and `completion`, or `raw`. `rendering` of the answer says whether that could be verified.
    """
    limit_bytes = runtime.settings.max_upload_bytes
    async with _receiving(runtime) as upload:
        form = await read_form(
            request, upload, limit_bytes=limit_bytes, max_files=MAX_FILES, max_field_bytes=_MAX_FIELD_BYTES
        )
        form.finish()
        new, ignored = await run_in_threadpool(
            store_import, upload, form.fields, settings=runtime.settings, blobs=runtime.blobs, caller=caller
        )
    afterwards.add_task(warm, new, runtime.engines)
    return await run_in_threadpool(_record, runtime, new, ignored)


@asynccontextmanager
async def _receiving(runtime: ApiRuntime) -> AsyncGenerator[ImportUpload, None]:
    upload = ImportUpload(runtime.settings.store_folder, runtime.settings.max_upload_bytes)
    try:
        yield upload
    finally:
        with CancelScope(shield=True):
            await run_in_threadpool(upload.close)


def _record(runtime: ApiRuntime, new: NewImport, ignored: tuple[str, ...]) -> ImportedModelOut:
    with runtime.database.write() as session:
        hold(session, runtime.blobs.exists, [new.adapter.sha256, *new.adapter.parts])
        adapter = imports.record(session, new, int(time.time()))
        described = models.get(session, runtime.settings, adapter.name)
    return ImportedModelOut(**dict(described), ignored_files=list(ignored))
