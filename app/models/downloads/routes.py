"""/v1/models/{name}/download: an adapter as a tar, from any byte on."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import StreamingResponse

from app.http.auth import require_caller
from app.http.deps import BlobsDep, DatabaseDep, RegistryDep, SettingsDep
from app.http.route_errors import READING, raises
from app.models.downloads.byte_range import read_range
from app.models.downloads.service import OpenedRange, find_download
from core.errors import (
    AdapterInvalid,
    BaseModelProtected,
    BlobDamaged,
    BlobNotFound,
    ModelNotFound,
    RangeNotSatisfiable,
)

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require_caller)])

_TAR: Final = "application/x-tar"
_CONTENT: Final = {_TAR: {"schema": {"type": "string", "format": "binary"}}}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "All of it.", "content": _CONTENT},
    206: {"description": "The bytes that `Range` names.", "content": _CONTENT},
}


@raises(ModelNotFound, BaseModelProtected, BlobNotFound, BlobDamaged, AdapterInvalid, RangeNotSatisfiable, *READING)
async def _open_range(
    name: str,
    database: DatabaseDep,
    settings: SettingsDep,
    registry: RegistryDep,
    blobs: BlobsDep,
    asked: Annotated[str | None, Header(alias="Range", description="Such as `bytes=1000-`, to go on.")] = None,
    only_if: Annotated[
        str | None, Header(alias="If-Range", description="The ETag of what was begun; all is sent if it changed.")
    ] = None,
) -> AsyncGenerator[OpenedRange, None]:
    download = await run_in_threadpool(find_download, database, settings, registry, blobs, name)
    found = read_range(asked, only_if, etag=download.layout.etag, size_bytes=download.layout.bytes)
    opened = await run_in_threadpool(OpenedRange, download, found, blobs)
    try:
        yield opened
    finally:
        opened.close()


@router.get("/{name:path}/download", response_class=StreamingResponse, responses=_ANSWERS)
def download_model(opened: Annotated[OpenedRange, Depends(_open_range)]) -> StreamingResponse:
    """Download a fine-tuned model, or a checkpoint: PEFT's two files, the manifest and the card, as a tar.

    Its bytes are the same each time as long as the ETag is, which changes with the card, as by an evaluation. Base
    models cannot be downloaded.
    """
    layout = opened.download.layout
    headers = {
        "accept-ranges": "bytes",
        "content-disposition": f'attachment; filename="{opened.download.filename}"',
        "content-length": str(opened.stop - opened.start),
        "etag": layout.etag,
    }
    if opened.is_part:
        headers["content-range"] = f"bytes {opened.start}-{opened.stop - 1}/{layout.bytes}"
    return StreamingResponse(
        iterate_in_threadpool(opened.chunks()), 206 if opened.is_part else 200, headers=headers, media_type=_TAR
    )
