"""Which models there are, the deployment's base models and what was fine-tuned from them, and what answers to a name.

How aliases come to stand for models is ``app.aliases``' matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from app.engines.counted import CountedEngine
from app.http.runtime import ApiRuntime
from app.http.wire import Page, page
from app.models.described import describe_alias, describe_base, describe_checkpoint, describe_tuned
from app.models.schemas import ModelOut
from app.models.split import model_for
from core.errors import BaseModelNotServed, BaseModelProtected, InvalidParameter, ModelNotFound
from core.serving.generation import Engine
from core.settings import Settings
from core.store import adapters
from core.store.aliases import records as aliases
from core.store.aliases.answers import AnsweredFor
from core.store.db import Database, Session
from core.store.references.owners import Freed, let_go_and_tell

# What text-generation-inference's clients call the model of a server that has one.
PLACEHOLDERS: Final = frozenset({"dummy", "tgi"})


@dataclass(frozen=True)
class ServedModel:
    """What a model's name stands for at an engine."""

    name: str
    base_model: str
    adapter: str | None  # digest of its manifest; None: the base model itself
    answers_for: AnsweredFor | None = None  # None: it was asked for by its own name
    answer_key: str = ""  # of the alias that it answers for


def find_served(session: Session, settings: Settings, name: str, *, whose: str | None = None) -> ServedModel:
    """Give what serves a name: a base model, a fine-tuned model, a checkpoint, or what an alias stands for now.

    Args:
        whose: who is to have the answer, always of the same model of an alias that stands for two; None: the one that
            is no canary.

    Raises:
        ModelNotFound: nothing has this name.
        BaseModelNotServed: the deployment does not serve the model's base.
    """
    served = find_by_own_name(session, settings, name) or _find_for_alias(session, settings, name, whose)
    if served is None and name in PLACEHOLDERS and len(settings.base_models) == 1:
        return ServedModel(settings.base_models[0], settings.base_models[0], None)
    if served is None:
        raise ModelNotFound(name)
    return served


def find_by_own_name(session: Session, settings: Settings, name: str) -> ServedModel | None:
    """Find what serves a name that is no alias.

    Raises:
        BaseModelNotServed: the deployment does not serve the model's base.
    """
    if name in settings.base_models:
        return ServedModel(name, name, None)
    served = adapters.find_served(session, name)
    if served is None:
        return None
    if served.base_model not in settings.base_models:
        raise BaseModelNotServed(name, served.base_model)
    return ServedModel(name, served.base_model, served.adapter_sha256)


def _find_for_alias(session: Session, settings: Settings, name: str, whose: str | None) -> ServedModel | None:
    alias = aliases.find(session, name)
    while alias is not None:
        model = model_for(alias, whose)
        served = find_by_own_name(session, settings, model)
        if served is not None:
            return replace(served, answers_for=AnsweredFor(name, alias.move, model), answer_key=alias.answer_key)
        # Moved and then deleted between the two questions, of which each sees the newest commit; or gone for good,
        # as a base model that the deployment has no more.
        seen, alias = alias, aliases.find(session, name)
        if alias == seen:
            raise ModelNotFound(model)
    return None


def look_up(database: Database, settings: Settings, name: str, *, whose: str | None = None) -> ServedModel:
    """As `find_served`, in a session that is closed again before anything is generated."""
    with database.read() as session:
        return find_served(session, settings, name, whose=whose)


def engine_for(runtime: ApiRuntime, model: ServedModel) -> Engine:
    """Give the engine of a model; of what it answers for an alias, it has account kept.

    Raises:
        EngineUnavailable: the deployment has none for the model's base.
    """
    engine = runtime.engines.get(model.base_model)
    if model.answers_for is None:
        return engine
    return CountedEngine(engine, partial(runtime.alias_answers.count, model.answers_for))


def list_page(session: Session, settings: Settings, *, after: str | None, limit: int) -> Page[ModelOut]:
    """List base models first, on the first page and beside its limit, then the fine-tuned ones, newest first.

    Raises:
        InvalidParameter: no model is called ``after``.
    """
    bases = [describe_base(settings, name) for name in settings.base_models] if after is None else []
    newest = None if after in settings.base_models else after
    rows, has_more = adapters.list_page(session, after=newest, limit=limit)
    tuned = describe_tuned(session, settings, rows)
    return page(bases + tuned, [model.id for model in bases + tuned], has_more)


def get(session: Session, settings: Settings, name: str) -> ModelOut:
    """Describe a base model, a fine-tuned one or a checkpoint, or under an alias' name what it stands for.

    Raises:
        ModelNotFound: there is no such model.
    """
    if name in settings.base_models:
        return describe_base(settings, name)
    alias = aliases.find(session, name)
    if alias is not None:
        return describe_alias(session, settings, alias)
    checkpoint = adapters.find_checkpoint(session, name)
    if checkpoint is not None:
        return describe_checkpoint(session, settings, checkpoint)
    [described] = describe_tuned(session, settings, [adapters.get(session, name)])
    return described


@dataclass(frozen=True)
class Unserved:
    """Adapters that no model name leads to any more."""

    base_model: str
    digests: Sequence[str]
    freed: Freed  # of manifests and their files


def delete(session: Session, settings: Settings, name: str) -> Unserved:
    """Stop serving a fine-tuned model and its checkpoints; requests under way end as they would.

    Checkpoints of a job that ended without a model are deleted one by one.

    Returns:
        what its engine can forget, once the session is committed.

    Raises:
        BaseModelProtected: it is a base model.
        ModelNotFound: there is no such model.
        CheckpointInUse: it is a checkpoint that goes with its job or its model.
        ModelInUse: an alias stands for it.
        InvalidParameter: it is an alias.
    """
    if name in settings.base_models:
        raise BaseModelProtected(name, "deleted")
    if aliases.find(session, name) is not None:
        raise InvalidParameter("model", f"{name} is an alias: DELETE /v1/models/aliases/{name}")
    deleted = adapters.delete(session, name)
    return Unserved(deleted.base_model, deleted.digests, let_go_and_tell(session, deleted.digests))
