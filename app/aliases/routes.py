"""/v1/models/aliases: names that stand for models: set, move, roll back, look up, delete; and ratings of answers."""

import time
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query
from fastapi.concurrency import run_in_threadpool

from app.aliases import service
from app.aliases.schemas import ALIAS_NAME, AliasOut, AliasPut, AliasWithHistoryOut, RatingCreate, RatingOut
from app.aliases.service import PlannedMove
from app.http.auth import CallerDep, require_caller
from app.http.deps import DatabaseDep, ReadSession, RuntimeDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.field_types import MAX_NAME_CHARS
from app.http.json_body import JsonRoute, require_no_body
from app.http.route_errors import WRITING, raises
from app.http.runtime import ApiRuntime
from app.http.wire import Deleted, Page, page
from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    AliasMoved,
    AliasNotFound,
    AnswerNotFound,
    BaseModelNotReady,
    BaseModelNotServed,
    EngineBusy,
    EngineUnavailable,
    GateFailed,
    GenerationFailed,
    NothingToRollBack,
)
from core.store.aliases import ratings, records
from core.store.aliases.records import Why

router = APIRouter(
    prefix="/v1/models/aliases", tags=["models"], dependencies=[Depends(require_caller)], route_class=JsonRoute
)

Reason = Annotated[str | None, Query(max_length=MAX_NAME_CHARS, description="Why, for the history.")]
# of a move, which has an engine load what it is to
_MOVING: Final = (
    *WRITING,
    BaseModelNotServed,
    BaseModelNotReady,
    EngineUnavailable,
    EngineBusy,
    GenerationFailed,
    AdapterInvalid,
    AdapterMismatch,
)


async def _move(runtime: ApiRuntime, planned: PlannedMove) -> AliasOut:
    await service.warm(planned.models, runtime.engines)

    def move() -> AliasOut:
        alias = service.carry_out(runtime.database, planned, int(time.time()))
        with runtime.database.read() as session:
            return service.describe(session, runtime.alias_answers, alias)

    return await run_in_threadpool(move)


@router.put("/{name}", responses=leads_to("name", "get_alias", "roll_back_alias", "delete_alias"))
@raises(*_MOVING, GateFailed)
async def set_alias(
    name: Annotated[str, Path(pattern=ALIAS_NAME)], body: AliasPut, runtime: RuntimeDep, caller: CallerDep
) -> AliasOut:
    """Let a name stand for a model, or move it to another one, once an engine has loaded that.

    Requests that come after the answer are answered by the new model; those under way finish with the old one. A
    `gate` moves it only if the canary, where there is one, and a model that is new to it pass the thresholds.
    """
    planned = await run_in_threadpool(service.plan_move, runtime, name, body, caller)
    return await _move(runtime, planned)


@router.post("/{name}/rollback", responses=leads_to("name", "get_alias"), dependencies=[Depends(require_no_body)])
@raises(*_MOVING, AliasNotFound, AliasMoved, NothingToRollBack)
async def roll_back_alias(name: str, runtime: RuntimeDep, caller: CallerDep, reason: Reason = None) -> AliasOut:
    """Let an alias stand again for what it stood for before; once more goes back one move further."""
    planned = await run_in_threadpool(service.plan_rollback, runtime, name, caller, reason)
    return await _move(runtime, planned)


@router.post("/{name}/ratings")
@raises(*WRITING, AliasNotFound, AnswerNotFound)
def rate_answer(name: str, body: RatingCreate, database: DatabaseDep) -> RatingOut:
    """Say what somebody thought of an answer for the alias, by its id; another time takes the place of the first.

    It is counted for the model that gave the answer, whatever the alias stands for by now. An answer can be rated for
    30 days.
    """
    with database.write() as session:
        answered = ratings.rate(session, name, body.id, body.rating, int(time.time()))
    return RatingOut(
        id=body.id, object="model.alias.rating", rating=body.rating, model=answered.model, move=answered.move
    )


@router.get("", responses=leads_to("name", "get_alias", "roll_back_alias", by=FIRST_ID))
def list_aliases(
    session: ReadSession,
    runtime: RuntimeDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> Page[AliasOut]:
    """List aliases by name, each with what its models answered since it was last moved."""
    found, has_more = records.list_page(session, after=after, limit=limit)
    told = [service.describe(session, runtime.alias_answers, alias) for alias in found]
    return page(told, [alias.id for alias in told], has_more)


@router.get("/{name}")
@raises(AliasNotFound)
def get_alias(
    name: str,
    session: ReadSession,
    runtime: RuntimeDep,
    after: Annotated[int | None, Query(ge=1, lt=2**31, description="Number of the move that was seen last.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AliasWithHistoryOut:
    """Look up an alias with its history: who moved it when, from what to what, why, and what was answered then."""
    return service.describe_with_history(session, runtime.alias_answers, name, after=after, limit=limit)


@router.delete("/{name}")
@raises(*WRITING, AliasNotFound)
def delete_alias(name: str, database: DatabaseDep, caller: CallerDep, reason: Reason = None) -> Deleted:
    """Let a name stand for nothing. Its history goes on if it is set again."""
    with database.write() as session:
        records.delete(session, name, Why(caller, reason), int(time.time()))
    return Deleted(id=name, object="model.alias", deleted=True)
