"""What moving an alias means: what it is refused for, what has to be ready before, and the one change that it is.

Requests find what an alias stands for in the database each time, so those that come after a move's answer are answered
by the new model, and those under way finish with the one that they began with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.aliases.gate import pass_gate
from app.aliases.schemas import AliasOut, AliasPut, AliasWithHistoryOut, AnswersOut, MoveOut
from app.engines.routing import Engines
from app.http.alias_answers import AliasAnswers
from app.http.runtime import ApiRuntime
from app.models.service import PLACEHOLDERS, ServedModel, find_by_own_name
from core.errors import InvalidParameter, ModelNotFound, NothingToRollBack
from core.jobs.spec import AdapterRef
from core.store import adapters
from core.store.aliases import records
from core.store.aliases.answers import AnswerCounts, AnsweredFor
from core.store.aliases.records import Alias, AliasState, Why
from core.store.db import Database, Session

_MODEL, _CANARY = "model", "canary.model"  # fields of the request


@dataclass(frozen=True)
class PlannedMove:
    """A move that nothing speaks against: to what, with what serves each of its models; and whether it goes back."""

    name: str
    to: AliasState
    models: tuple[ServedModel, ...]
    why: Why
    is_rollback: bool = False


def plan_move(runtime: ApiRuntime, name: str, asked: AliasPut, caller: str) -> PlannedMove:
    """Hold a move against all that it can be refused for.

    Raises:
        InvalidParameter: the name is a base model's, a model is none or is an alias itself, or the gate does not fit.
        BaseModelNotServed: the deployment does not serve a model's base.
        GateFailed: the gate is not passed.
    """
    if name in PLACEHOLDERS or name in {*runtime.settings.base_models, *runtime.registry.names}:
        raise InvalidParameter(
            "name", f"{name} is the name of a base model, which an alias must not hide; take another"
        )
    canary = asked.canary
    with runtime.database.read() as session:
        model = _target(session, runtime, asked.model, _MODEL)
        models = [model] if canary is None else [model, _target(session, runtime, canary.model, _CANARY)]
        if canary is not None and canary.model == model.name:
            raise InvalidParameter(_CANARY, f"is {model.name} as the model is; name another one, or no canary")
        gate = None
        if asked.gate is not None:
            gate = pass_gate(session, name, asked.gate, _gated(records.find(session, name), models))
    to = AliasState(
        model=model.name,
        canary=None if canary is None else canary.model,
        percent=None if canary is None else canary.percent,
    )
    return PlannedMove(name, to, tuple(models), Why(caller, asked.reason, gate))


def plan_rollback(runtime: ApiRuntime, name: str, caller: str, reason: str | None) -> PlannedMove:
    """Find what an alias goes back to; no gate keeps it from that.

    Raises:
        AliasNotFound: there is no such alias.
        NothingToRollBack: it has stood for nothing else, or that was deleted since.
        BaseModelNotServed: the deployment does not serve a model's base any more.
    """
    with runtime.database.read() as session:
        to = records.find_rollback(session, name)
        models = []
        for model in to.models:
            served = find_by_own_name(session, runtime.settings, model)
            if served is None:
                raise NothingToRollBack(name, f"{model}, for which it stood before, was deleted since")
            models.append(served)
    return PlannedMove(name, to, tuple(models), Why(caller, reason), is_rollback=True)


async def warm(models: Sequence[ServedModel], engines: Engines) -> None:
    """Have the engines load what is to answer, so that nobody's request waits for it.

    Raises:
        ServiceError: as `core.serving.generation.Engine.warm`.
    """
    for served in models:
        if served.adapter is not None:
            await engines.get(served.base_model).warm(served.adapter)


def carry_out(database: Database, planned: PlannedMove, now: int) -> Alias:
    """Move the alias, in one transaction.

    Raises:
        InvalidParameter: a model was deleted since the move was planned.
        AliasMoved, AliasNotFound, NothingToRollBack: somebody else moved or deleted what was to be rolled back.
    """
    with database.write() as session:
        for served, param in zip(planned.models, (_MODEL, _CANARY), strict=False):
            if served.adapter is not None:
                ref = AdapterRef(name=served.name, adapter_sha256=served.adapter)
                adapters.keep_served(session, ref, param)
        change = records.roll_back if planned.is_rollback else records.move
        return change(session, planned.name, planned.to, planned.why, now)


def describe(session: Session, answers: AliasAnswers, alias: Alias) -> AliasOut:
    """Describe an alias as it stands."""
    sums = answers.sums(session, alias.name, [alias.move])
    return AliasOut.of_alias(alias, _answers(session, sums, alias.name, alias.move, alias.state))


def describe_with_history(
    session: Session, answers: AliasAnswers, name: str, *, after: int | None, limit: int
) -> AliasWithHistoryOut:
    """Describe an alias with a page of its moves.

    Raises:
        AliasNotFound: there is no such alias.
    """
    alias = records.get(session, name)
    moves, has_more = records.list_moves(session, name, after=after, limit=limit)
    sums = answers.sums(session, name, [move.number for move in moves])
    told = []
    for move in moves:
        state = None if move.after is None else AliasState.model_validate(move.after)
        told.append(MoveOut.of(move, _answers(session, sums, name, move.number, state)))
    return AliasWithHistoryOut(**dict(describe(session, answers, alias)), history=told, has_more=has_more)


def _target(session: Session, runtime: ApiRuntime, name: str, param: str) -> ServedModel:
    alias = records.find(session, name)
    if alias is not None:
        raise InvalidParameter(
            param, f"{name} is an alias, and an alias stands for a model; name {alias.state.model}, as it does"
        )
    served = find_by_own_name(session, runtime.settings, name)
    if served is None:
        raise InvalidParameter(param, str(ModelNotFound(name)))
    return served


def _gated(present: Alias | None, models: Sequence[ServedModel]) -> list[ServedModel]:
    """Give the models that have to pass: the canary, and the other one unless it is what the alias stands for."""
    model, *canary = models
    is_new = present is None or present.state.model != model.name
    return [model, *canary] if is_new or not canary else canary


def _answers(
    session: Session, sums: dict[AnsweredFor, AnswerCounts], name: str, move: int, state: AliasState | None
) -> list[AnswersOut]:
    models = () if state is None else state.models
    versions = adapters.list_versions(session, models)
    return [
        AnswersOut.of(model, versions.get(model), sums.get(AnsweredFor(name, move, model), AnswerCounts()))
        for model in models
    ]
