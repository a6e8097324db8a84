"""/v1/models: the base models, and what was fine-tuned from them."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Query
from fastapi.responses import Response

from app.http.auth import require_caller
from app.http.deps import BlobsDep, DatabaseDep, EnginesDep, ReadSession, RegistryDep, SettingsDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.route_errors import WRITING, raises
from app.http.wire import Deletion, DryRun, Page
from app.models import service
from app.models.schemas import ModelOut
from core.errors import (
    AdapterInvalid,
    BaseModelProtected,
    BlobDamaged,
    BlobNotFound,
    CheckpointInUse,
    ModelInUse,
    ModelNotFound,
)
from core.store import cards
from core.store.aliases.records import name_behind

_MARKDOWN: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require_caller)])


@router.get("", responses=leads_to("name", "get_model", "get_card", by=FIRST_ID))
def list_models(
    session: ReadSession,
    settings: SettingsDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Page[ModelOut]:
    """List the base models, then the fine-tuned ones, newest first, each with its base (``parent``) and version."""
    return service.list_page(session, settings, after=after, limit=limit)


# before the next one, whose name would be all of this path
@router.get("/{name:path}/card", response_class=Response, responses=_MARKDOWN)
@raises(ModelNotFound, BlobNotFound, BlobDamaged, AdapterInvalid)
def get_card(name: str, session: ReadSession, registry: RegistryDep, blobs: BlobsDep) -> Response:
    """Give the card of a fine-tuned model, or of a checkpoint, in Markdown.

    What it was trained on and how, with which scores on held-out rows, and where each part comes from; of an imported
    one, what was verified of it. What it is meant for is left for its owner to say. Downloads have it as README.md.
    """
    return Response(
        cards.read(session, registry, blobs, name_behind(session, name)), media_type="text/markdown; charset=utf-8"
    )


# A path, because clients send a "/" inside a name as %2F, which servers decode before routing.
@router.get("/{name:path}")
@raises(ModelNotFound)
def get_model(name: str, session: ReadSession, settings: SettingsDep) -> ModelOut:
    """Look up a model or a checkpoint; under an alias' name, what it stands for."""
    return service.get(session, settings, name)


@router.delete("/{name:path}")
@raises(*WRITING, ModelNotFound, BaseModelProtected, CheckpointInUse, ModelInUse)
def delete_model(
    name: str,
    database: DatabaseDep,
    settings: SettingsDep,
    engines: EnginesDep,
    afterwards: BackgroundTasks,
    dry_run: DryRun = False,
) -> Deletion:
    """Delete a fine-tuned model; base models cannot be deleted.

    ``frees_bytes`` is what it and its checkpoints share with nothing else; the disk has it back after the grace,
    LORAMILL_GC_GRACE_H. ``keeps`` says what stays, and because of what.
    """
    carry_out = database.rehearse if dry_run else database.write_freeing
    gone = carry_out(lambda session: service.delete(session, settings, name))
    if not dry_run:
        # runs after the response, and so after the commit
        afterwards.add_task(engines.unload, gone.base_model, gone.digests)
    return Deletion.of("model", name, gone.freed.bytes, gone.freed.keeps, dry_run=dry_run)
