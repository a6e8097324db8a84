"""/v1/models/{name}/download: an adapter as a tar, from any byte on; and how any such tar is answered."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import StreamingResponse

from app.http.auth import require_caller
from app.http.deps import BlobsDep, DatabaseDep, RegistryDep, SettingsDep
from app.http.route_errors import READING, raises
from app.models.downloads.byte_range import read_range
from app.models.downloads.service import Download, OpenedRange, find_download
from core.errors import (
    AdapterInvalid,
    BaseModelProtected,
    BlobDamaged,
    BlobNotFound,
    ModelNotFound,
    RangeNotSatisfiable,
)
from core.store.blobs import BlobStore

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require_caller)])

_TAR: Final = "application/x-tar"
_CONTENT: Final = {_TAR: {"schema": {"type": "string", "format": "binary"}}}
TAR_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "All of it.", "content": _CONTENT},
    206: {"description": "The bytes that `Range` names.", "content": _CONTENT},
}


Range = Annotated[str | None, Header(alias="Range", description="Such as `bytes=1000-`, to go on.")]
IfRange = Annotated[
    str | None, Header(alias="If-Range", description="The ETag of what was begun; all is sent if it changed.")
]


async def open_range(download: Download, blobs: BlobStore, asked: str | None, only_if: str | None) -> OpenedRange:
    """Open the bytes that a request names; whoever opens them closes them.

    Raises:
        RangeNotSatisfiable: they begin behind the end.
        BlobNotFound, BlobDamaged, AdapterInvalid: what they are made of is not what it was.
    """
    found = read_range(asked, only_if, etag=download.layout.etag, size_bytes=download.layout.bytes)
    return await run_in_threadpool(OpenedRange, download, found, blobs)


def send(opened: OpenedRange) -> StreamingResponse:
    """Answer with opened bytes."""
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


@raises(ModelNotFound, BaseModelProtected, BlobNotFound, BlobDamaged, AdapterInvalid, RangeNotSatisfiable, *READING)
async def _open_range(
    name: str,
    database: DatabaseDep,
    settings: SettingsDep,
    registry: RegistryDep,
    blobs: BlobsDep,
    asked: Range = None,
    only_if: IfRange = None,
) -> AsyncGenerator[OpenedRange, None]:
    download = await run_in_threadpool(find_download, database, settings, registry, blobs, name)
    opened = await open_range(download, blobs, asked, only_if)
    try:
        yield opened
    finally:
        opened.close()


@router.get("/{name:path}/download", response_class=StreamingResponse, responses=TAR_ANSWERS)
def download_model(opened: Annotated[OpenedRange, Depends(_open_range)]) -> StreamingResponse:
    """Download a fine-tuned model, or a checkpoint: PEFT's two files, the manifest and the card, as a tar.

    Its bytes are the same each time as long as the ETag is, which changes with the card, as by an evaluation. Base
    models cannot be downloaded.
    """
    return send(opened)
