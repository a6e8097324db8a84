"""Which models there are: the deployment's base models, and what was fine-tuned from them."""

from dataclasses import dataclass

from app.schemas.models import ModelOut
from core.base_models import IMPORTED_FILE, folder_of
from core.errors import BaseModelProtected, ModelNotFound
from core.settings import Settings
from core.store import adapters
from core.store.db import Database, Session


@dataclass(frozen=True)
class ServedModel:
    """What a model's name stands for at an engine."""

    name: str
    base_model: str
    adapter: str | None  # digest of its manifest; None: the base model itself


def find_served(session: Session, settings: Settings, name: str) -> ServedModel:
    """Give what serves a name: a base model, a fine-tuned model, or a checkpoint.

    Raises:
        ModelNotFound: nothing has this name, or the deployment no longer serves its base model.
    """
    if name in settings.base_models:
        return ServedModel(name, name, None)
    found = adapters.find_digest(session, name)
    if found is None or found[0] not in settings.base_models:
        raise ModelNotFound(name)
    return ServedModel(name, *found)


def look_up(database: Database, settings: Settings, name: str) -> ServedModel:
    """As `find_served`, in a session that is closed again before anything is generated."""
    with database.read() as session:
        return find_served(session, settings, name)


def list_all(session: Session, settings: Settings) -> list[ModelOut]:
    """List base models first, then the fine-tuned ones, oldest first."""
    bases = [_describe_base(settings, name) for name in settings.base_models]
    tuned = [
        _describe_tuned(settings, adapter.name, adapter.base_model, adapter.created_at)
        for adapter in adapters.list_live(session)
    ]
    return bases + tuned


def get(session: Session, settings: Settings, name: str) -> ModelOut:
    """Describe a base model or a fine-tuned one.

    Raises:
        ModelNotFound: there is no such model.
    """
    if name in settings.base_models:
        return _describe_base(settings, name)
    adapter = adapters.get(session, name)
    return _describe_tuned(settings, adapter.name, adapter.base_model, adapter.created_at)


def delete(session: Session, settings: Settings, name: str) -> None:
    """Stop serving a fine-tuned model; requests under way end as they would.

    Raises:
        BaseModelProtected: it is a base model.
        ModelNotFound: there is no such model.
    """
    if name in settings.base_models:
        raise BaseModelProtected(name)
    adapters.delete(session, name)


def _describe_base(settings: Settings, name: str) -> ModelOut:
    imported = folder_of(settings.base_models_folder, name) / IMPORTED_FILE
    created = int(imported.stat().st_mtime) if imported.exists() else 0  # 0: not imported yet
    return ModelOut(id=name, object="model", created=created, owned_by="base-model", parent=None)


def _describe_tuned(settings: Settings, name: str, base_model: str, created_at: int) -> ModelOut:
    return ModelOut(id=name, object="model", created=created_at, owned_by=settings.organization, parent=base_model)
