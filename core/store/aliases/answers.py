"""What models answered for aliases: counts and sums, to which every API process adds.

Of an alias and one of its moves, as what it stands for is another thing after the next.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields

from sqlalchemy import select

from core.store.db import Session, insert_into
from core.store.tables import AliasAnswersRecord


@dataclass(frozen=True, order=True)
class AnsweredFor:
    """Which model answers whom: for an alias, as its ``move`` left it."""

    alias: str
    move: int
    model: str


@dataclass(frozen=True)
class AnswerCounts:
    """Whole answers, those of them that ended by themselves, their tokens and seconds; answers that failed; ratings."""

    answers: int = 0
    stopped: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rated_up: int = 0
    rated_down: int = 0

    def __add__(self, other: "AnswerCounts") -> "AnswerCounts":
        theirs = asdict(other)
        return AnswerCounts(**{name: value + theirs[name] for name, value in asdict(self).items()})


def add(session: Session, counted: Mapping[AnsweredFor, AnswerCounts]) -> None:
    """Add to what is counted."""
    for key in sorted(counted):  # always in this order, so that no two processes wait for each other
        insert = insert_into(session, AliasAnswersRecord).values(**asdict(key), **asdict(counted[key]))
        sums = {name: getattr(AliasAnswersRecord, name) + insert.excluded[name] for name in asdict(counted[key])}
        session.execute(insert.on_conflict_do_update(index_elements=["alias", "move", "model"], set_=sums))


def list_counts(session: Session, alias: str, moves: Collection[int]) -> dict[AnsweredFor, AnswerCounts]:
    """List what is counted of some of an alias' moves."""
    rows = session.scalars(
        select(AliasAnswersRecord).where(AliasAnswersRecord.alias == alias, AliasAnswersRecord.move.in_(moves))
    )
    return {
        AnsweredFor(row.alias, row.move, row.model): AnswerCounts(
            **{each.name: getattr(row, each.name) for each in fields(AnswerCounts)}
        )
        for row in rows
    }
