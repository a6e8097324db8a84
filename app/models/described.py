"""What a model's name is described as on the wire: a base model, a fine-tuned one, a checkpoint, an alias.

Which name is which of these is ``service``'s matter.
"""

from collections.abc import Sequence

from app.models.schemas import ModelOut
from core.base_models.registry import IMPORTED_FILE, folder_of
from core.errors import ModelNotFound
from core.settings import Settings
from core.store import adapters, imports, jobs
from core.store.aliases.records import Alias
from core.store.db import Session
from core.store.tables import AdapterRecord, CheckpointRecord


def describe_base(settings: Settings, name: str) -> ModelOut:
    """Describe a base model; one that is not imported yet was created at 0."""
    imported = folder_of(settings.base_models_folder, name) / IMPORTED_FILE
    created = int(imported.stat().st_mtime) if imported.exists() else 0
    return ModelOut(
        id=name,
        object="model",
        created=created,
        owned_by="base-model",
        parent=None,
        rendering=None,
        suffix=None,
        version=None,
        model=None,
    )


def describe_alias(session: Session, settings: Settings, alias: Alias) -> ModelOut:
    """Describe what an alias stands for, under its own name.

    Raises:
        ModelNotFound: that is no model of this deployment any more.
    """
    model = alias.state.model
    served, job_id = adapters.find_served(session, model), adapters.find_job_id(session, model)
    if served is None and model not in settings.base_models:
        raise ModelNotFound(model)
    suffix, version = adapters.list_versions(session, [model]).get(model, (None, None))
    return ModelOut(
        id=alias.name,
        object="model",
        created=alias.created_at,
        owned_by=settings.organization,
        parent=model if served is None else served.base_model,
        rendering=None if job_id is None else imports.list_renderings(session, [job_id])[job_id],
        suffix=suffix,
        version=version,
        model=model,
    )


def describe_checkpoint(session: Session, settings: Settings, checkpoint: CheckpointRecord) -> ModelOut:
    """Describe a checkpoint, which is of no family and in no list of models."""
    return ModelOut(
        id=checkpoint.name,
        object="model",
        created=checkpoint.created_at,
        owned_by=settings.organization,
        parent=jobs.get(session, checkpoint.job_id).base_model,
        rendering="verified",
        suffix=None,
        version=None,
        model=None,
    )


def describe_tuned(session: Session, settings: Settings, rows: Sequence[AdapterRecord]) -> list[ModelOut]:
    """Describe fine-tuned models."""
    renderings = imports.list_renderings(session, [row.job_id for row in rows])
    return [
        ModelOut(
            id=row.name,
            object="model",
            created=row.created_at,
            owned_by=row.organization or settings.organization,
            parent=row.base_model,
            rendering=renderings[row.job_id],
            suffix=row.suffix,
            version=row.version,
            model=None,
        )
        for row in rows
    ]
