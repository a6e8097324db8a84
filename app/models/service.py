"""Which models there are: the deployment's base models, and what was fine-tuned from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from app.engines.routing import Engines
from app.http.wire import Page, page
from app.models.schemas import ModelOut
from core.base_models.registry import IMPORTED_FILE, folder_of
from core.errors import BaseModelNotServed, BaseModelProtected, ModelNotFound, ServiceError
from core.settings import Settings
from core.store import adapters
from core.store.db import Database, Session
from core.store.references.rows import let_go

# What text-generation-inference's clients call the model of a server that has one.
PLACEHOLDERS: Final = frozenset({"dummy", "tgi"})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """What a model's name stands for at an engine."""

    name: str
    base_model: str
    adapter: str | None  # digest of its manifest; None: the base model itself


def find_served(session: Session, settings: Settings, name: str) -> ServedModel:
    """Give what serves a name: a base model, a fine-tuned model, or a checkpoint.

    Raises:
        ModelNotFound: nothing has this name.
        BaseModelNotServed: the deployment does not serve the model's base.
    """
    if name in settings.base_models:
        return ServedModel(name, name, None)
    served = adapters.find_served(session, name)
    if served is None and name in PLACEHOLDERS and len(settings.base_models) == 1:
        return ServedModel(settings.base_models[0], settings.base_models[0], None)
    if served is None:
        raise ModelNotFound(name)
    if served.base_model not in settings.base_models:
        raise BaseModelNotServed(name, served.base_model)
    return ServedModel(name, served.base_model, served.adapter_sha256)


def look_up(database: Database, settings: Settings, name: str) -> ServedModel:
    """As `find_served`, in a session that is closed again before anything is generated."""
    with database.read() as session:
        return find_served(session, settings, name)


def list_page(session: Session, settings: Settings, *, after: str | None, limit: int) -> Page[ModelOut]:
    """List base models first, on the first page and beside its limit, then the fine-tuned ones, newest first.

    Raises:
        InvalidParameter: no model is called ``after``.
    """
    bases = [_describe_base(settings, name) for name in settings.base_models] if after is None else []
    newest = None if after in settings.base_models else after
    rows, has_more = adapters.list_page(session, after=newest, limit=limit)
    tuned = [_describe_tuned(settings, row.name, row.base_model, row.created_at) for row in rows]
    return page(bases + tuned, [model.id for model in bases + tuned], has_more)


def get(session: Session, settings: Settings, name: str) -> ModelOut:
    """Describe a base model or a fine-tuned one.

    Raises:
        ModelNotFound: there is no such model.
    """
    if name in settings.base_models:
        return _describe_base(settings, name)
    adapter = adapters.get(session, name)
    return _describe_tuned(settings, adapter.name, adapter.base_model, adapter.created_at)


@dataclass(frozen=True)
class Unserved:
    """Adapters that no model name leads to any more."""

    base_model: str
    digests: Sequence[str]
    bytes: int  # that are freed after the grace: what nothing else refers to, of manifests and their files


def delete(session: Session, settings: Settings, name: str) -> Unserved:
    """Stop serving a fine-tuned model and its checkpoints; requests under way end as they would.

    Checkpoints of a job that ended without a model are deleted one by one.

    Returns:
        what its engine can forget, once the session is committed.

    Raises:
        BaseModelProtected: it is a base model.
        ModelNotFound: there is no such model.
        CheckpointInUse: it is a checkpoint that goes with its job or its model.
    """
    if name in settings.base_models:
        raise BaseModelProtected(name, "deleted")
    deleted = adapters.delete(session, name)
    return Unserved(deleted.base_model, deleted.digests, let_go(session, deleted.digests))


async def unload(unserved: Unserved, engines: Engines) -> None:
    """Tell an engine what it can forget. One that does not hear it forgets what is least used anyway."""
    try:
        for digest in unserved.digests:
            await engines.get(unserved.base_model).unload(digest)
    except ServiceError as error:
        _log.warning("an engine was not told of deleted adapters", adapters=unserved.digests, reason=str(error))


def _describe_base(settings: Settings, name: str) -> ModelOut:
    imported = folder_of(settings.base_models_folder, name) / IMPORTED_FILE
    created = int(imported.stat().st_mtime) if imported.exists() else 0  # 0: not imported yet
    return ModelOut(id=name, object="model", created=created, owned_by="base-model", parent=None)


def _describe_tuned(settings: Settings, name: str, base_model: str, created_at: int) -> ModelOut:
    return ModelOut(id=name, object="model", created=created_at, owned_by=settings.organization, parent=base_model)
