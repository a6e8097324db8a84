"""/v1/models: the base models, and what was fine-tuned from them."""

from fastapi import APIRouter, BackgroundTasks, Depends

from app.http.auth import require_caller
from app.http.deps import DatabaseDep, EnginesDep, ReadSession, SettingsDep
from app.models import service
from app.models.schemas import DeletedModel, ModelOut, ModelsOut

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require_caller)])


@router.get("")
def list_models(session: ReadSession, settings: SettingsDep) -> ModelsOut:
    """List all models; ``parent`` tells a fine-tuned model's base."""
    return ModelsOut(object="list", data=service.list_all(session, settings))


# A path, because clients send a "/" inside a name as %2F, which servers decode before routing.
@router.get("/{name:path}")
def get_model(name: str, session: ReadSession, settings: SettingsDep) -> ModelOut:
    """Look up a model."""
    return service.get(session, settings, name)


@router.delete("/{name:path}")
def delete_model(
    name: str, database: DatabaseDep, settings: SettingsDep, engines: EnginesDep, afterwards: BackgroundTasks
) -> DeletedModel:
    """Delete a fine-tuned model; base models cannot be deleted.

    ``frees_bytes`` is what it and its checkpoints share with nothing else; the disk has it back after the grace,
    LORAMILL_GC_GRACE_H.
    """
    unserved = database.write_freeing(lambda session: service.delete(session, settings, name))
    afterwards.add_task(service.unload, unserved, engines)  # runs after the response, and so after the commit
    return DeletedModel(id=name, object="model", deleted=True, frees_bytes=unserved.bytes)
