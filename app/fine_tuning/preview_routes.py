"""/v1/fine_tuning/preview: examples token by token as a job would train on them, as JSON or as a page."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header
from fastapi.responses import HTMLResponse, Response

from app.fine_tuning import preview_service
from app.fine_tuning.preview_schemas import PreviewCreate, PreviewOut
from app.http.auth import require_caller
from app.http.deps import BlobsDep, DatabaseDep, RegistryDep, SettingsDep
from app.http.json_body import JsonRoute
from app.http.route_errors import raises
from app.web.preview_page import HEADERS, page
from core.errors import BaseModelNotReady, BlobNotFound, FileNotStored, ModelNotFound

router = APIRouter(
    prefix="/v1/fine_tuning/preview",
    tags=["fine-tuning"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)

_VARY: Final = {"vary": "accept"}


@router.post("", response_model=PreviewOut, responses={200: {"content": {"text/html": {}}}})
@raises(ModelNotFound, BaseModelNotReady, FileNotStored, BlobNotFound)
def create_preview(
    request: PreviewCreate,
    response: Response,
    database: DatabaseDep,
    settings: SettingsDep,
    registry: RegistryDep,
    blobs: BlobsDep,
    accept: Annotated[str, Header()] = "*/*",
) -> PreviewOut | Response:
    """Show what a job would train on: each token's id, text, weight and the reason for it.

    The body is a job's; instead of ``training_file`` it can carry ``examples``. A job that would be refused, or
    fail over one of these examples, is refused here. ``Accept: text/html`` gives a page for people.
    """
    with database.read() as session:
        source = preview_service.find_source(session, request, settings=settings, registry=registry)
    shown = preview_service.show(request, source, settings=settings, blobs=blobs)
    if not prefers_html(accept):
        response.headers.update(_VARY)
        return PreviewOut.of(request.model, shown)
    return HTMLResponse(page(shown, model=request.model), headers={**_VARY, **HEADERS})


def prefers_html(accept: str) -> bool:
    """Read an Accept header: HTML only where it is wanted more than JSON, so ``*/*`` means JSON."""
    return _quality(accept, "text/html") > _quality(accept, "application/json")


def _quality(accept: str, media_type: str) -> float:
    """Give the q-value of the most specific range that covers a media type; 0 where none does."""
    covering = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        specificity = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
        if name in specificity:
            covering[specificity.index(name)] = _q_of(parameters)
    return covering[max(covering)] if covering else 0.0


def _q_of(parameters: list[str]) -> float:
    stated = next((value for name, _, value in (p.partition("=") for p in parameters) if name.strip() == "q"), "1")
    try:
        return float(stated)
    except ValueError:
        return 0.0
