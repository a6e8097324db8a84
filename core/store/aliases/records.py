"""Aliases: names that stand for a model, or for two by percent, until they are moved; and every move there was.

Each move is one change of the alias' row and one line of its history. What a model's name may be, who answers whom,
and what a move has to wait for, is the API's matter.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import or_, select

from core.errors import AliasMoved, AliasNotFound, NothingToRollBack
from core.store.aliases.answer_ids import new_key
from core.store.db import Session, insert_into
from core.store.tables import AliasAction, AliasMoveRecord, AliasRecord
from core.values import Frozen


class AliasState(Frozen):
    """What an alias stands for: a model, and for ``percent`` of its callers the canary; None: for all the model."""

    model: str
    canary: str | None = None
    percent: int | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,) if self.canary is None else (self.model, self.canary)


@dataclass(frozen=True)
class Why:
    """Who moves an alias, and why. ``gate``: what allowed it, as the history is to tell; None: nothing had to."""

    caller: str
    reason: str | None
    gate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Alias:
    """An alias as one question found it.

    Attributes:
        move: number of its newest move.
        answer_key: by which ids of answers for it are known.
    """

    name: str
    state: AliasState
    move: int
    created_at: int
    moved_at: int
    answer_key: str = field(compare=False, repr=False)


def find(session: Session, name: str) -> Alias | None:
    """Find what an alias stands for now."""
    row = session.execute(
        select(*_COLUMNS).where(AliasRecord.name == name, AliasRecord.model.is_not(None))
    ).one_or_none()
    return None if row is None else _alias(row)


def name_behind(session: Session, name: str) -> str:
    """Give the model that an alias stands for, the one that is no canary; any other name is given back."""
    alias = find(session, name)
    return name if alias is None else alias.state.model


def get(session: Session, name: str) -> Alias:
    """Give what an alias stands for now.

    Raises:
        AliasNotFound: there is none, or it was deleted.
    """
    alias = find(session, name)
    if alias is None:
        raise AliasNotFound(name)
    return alias


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[Alias], bool]:
    """List aliases by name, and tell whether there are more behind ``after``, which need not be there any more."""
    query = select(*_COLUMNS).where(AliasRecord.model.is_not(None), AliasRecord.name > (after or ""))
    rows = session.execute(query.order_by(AliasRecord.name).limit(limit + 1)).all()
    return [_alias(row) for row in rows[:limit]], len(rows) > limit


def list_moves(session: Session, name: str, *, after: int | None, limit: int) -> tuple[Sequence[AliasMoveRecord], bool]:
    """List an alias' moves, newest first, and tell whether there are older ones.

    Args:
        after: number of the last one already seen; None starts with the newest.
    """
    query = select(AliasMoveRecord).where(AliasMoveRecord.alias == name)
    if after is not None:
        query = query.where(AliasMoveRecord.number < after)
    rows = session.scalars(query.order_by(AliasMoveRecord.number.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def find_standing_for(session: Session, models: Collection[str]) -> tuple[str, str] | None:
    """Find an alias that stands for one of these models; give its name and the model's."""
    row = session.execute(
        select(AliasRecord.name, AliasRecord.model, AliasRecord.canary)
        .where(or_(AliasRecord.model.in_(models), AliasRecord.canary.in_(models)))
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.name, row.model if row.model in models else row.canary)


def move(session: Session, name: str, to: AliasState, why: Why, now: int) -> Alias:
    """Make an alias, or let it stand for something else. Where it stands there already, nothing is written."""
    session.execute(
        insert_into(session, AliasRecord)
        .values(name=name, move=0, created_at=now, moved_at=now, answer_key=new_key())
        .on_conflict_do_nothing()
    )
    row = _lock(session, name)
    before = _state(row)
    if before != to:
        _write(session, row, AliasAction.SET, to, why, now, back_to=None if before is None else row.move)
    return _alias(row)


def find_rollback(session: Session, name: str) -> AliasState:
    """Give what an alias goes back to: what it stood for before. Each of several rollbacks goes one move further back.

    Raises:
        AliasNotFound: there is no such alias.
        NothingToRollBack: it stands where it was first set.
    """
    return _rollback(session, get(session, name))[0]


def roll_back(session: Session, name: str, to: AliasState, why: Why, now: int) -> Alias:
    """Let an alias stand again for what `find_rollback` gave.

    Raises:
        AliasNotFound, NothingToRollBack: as `find_rollback`.
        AliasMoved: by now it would go back to something else.
    """
    row = _lock(session, name)
    state, back_to = _rollback(session, get(session, name))
    if state != to:
        raise AliasMoved(name)
    _write(session, row, AliasAction.ROLLBACK, to, why, now, back_to=back_to)
    return _alias(row)


def delete(session: Session, name: str, why: Why, now: int) -> None:
    """Let a name stand for nothing. Its history stays, and goes on where the name is used again.

    Raises:
        AliasNotFound: there is no such alias.
    """
    row = _lock(session, name)
    if row.model is None:
        raise AliasNotFound(name)
    _write(session, row, AliasAction.DELETE, None, why, now, back_to=None)


_COLUMNS = (
    AliasRecord.name,
    AliasRecord.model,
    AliasRecord.canary,
    AliasRecord.percent,
    AliasRecord.move,
    AliasRecord.created_at,
    AliasRecord.moved_at,
    AliasRecord.answer_key,
)


def _alias(row: Any) -> Alias:
    state = AliasState(model=row.model, canary=row.canary, percent=row.percent)
    return Alias(row.name, state, row.move, row.created_at, row.moved_at, row.answer_key)


def _state(row: AliasRecord) -> AliasState | None:
    return None if row.model is None else _alias(row).state


def _lock(session: Session, name: str) -> AliasRecord:
    """Give an alias' row, a deleted one's too, which nobody else changes until the transaction ends."""
    row = session.scalar(select(AliasRecord).where(AliasRecord.name == name).with_for_update())
    if row is None:
        raise AliasNotFound(name)
    return row


def _rollback(session: Session, alias: Alias) -> tuple[AliasState, int | None]:
    """Give where an alias goes back to, and where it would go back to from there."""
    newest = session.get_one(AliasMoveRecord, (alias.name, alias.move))
    if newest.back_to is None:
        raise NothingToRollBack(alias.name, "it has stood for nothing else since it was made")
    earlier = session.get_one(AliasMoveRecord, (alias.name, newest.back_to))
    return AliasState.model_validate(earlier.after), earlier.back_to


def _write(
    session: Session,
    row: AliasRecord,
    action: AliasAction,
    to: AliasState | None,
    why: Why,
    now: int,
    *,
    back_to: int | None,
) -> None:
    before = _state(row)
    row.move += 1
    row.model, row.canary, row.percent = (None, None, None) if to is None else (to.model, to.canary, to.percent)
    row.created_at = now if before is None else row.created_at
    row.moved_at = now
    session.add(
        AliasMoveRecord(
            alias=row.name,
            number=row.move,
            action=action,
            caller=why.caller,
            before=None if before is None else before.model_dump(),
            after=None if to is None else to.model_dump(),
            reason=why.reason,
            gate=why.gate,
            back_to=back_to,
            created_at=now,
        )
    )
    session.flush()
