"""Wire types of aliases, which are our own."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from app.evaluations.schemas import MAX_GATES
from app.http.field_types import Many, StoredText, described_by
from app.http.wire import Body, Out
from core.ratio import ratio
from core.store.aliases.answers import AnswerCounts
from core.store.aliases.ratings import Rating
from core.store.aliases.records import Alias, AliasState
from core.store.tables import AliasMoveRecord

# No colon, which every fine-tuned model's name has: so no alias can have the name of one that is yet to be made.
ALIAS_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$"


class CanaryCreate(Body):
    """A second model, that answers some of the callers."""

    model: StoredText
    percent: int = Field(ge=1, le=99, description="Of those who ask, told apart by `user`, or else by their key.")


class GateCreate(Body):
    """What the model has to pass before the alias moves, as an ended evaluation found."""

    evaluation: StoredText
    thresholds: Annotated[Many[StoredText], Field(max_length=MAX_GATES)] = Field(
        (), description="As an evaluation's gates; none: those of the evaluation itself."
    )


class AliasPut(Body):
    """Says what an alias is to stand for."""

    model_config = described_by({"model": "smollm2-135m-instruct", "reason": "the first one"})

    model: StoredText
    canary: CanaryCreate | None = None
    gate: GateCreate | None = None
    reason: StoredText | None = Field(None, description="Why, for the history.")


class RatingCreate(Body):
    """Says what somebody thought of an answer."""

    model_config = described_by({"id": "cmpl-06h2n5v3kl7q906h2n5v3kl7q9-1-0123456789abcdef", "rating": "up"})

    id: StoredText = Field(description="Of the answer, as a completion or a chat completion for the alias has it.")
    rating: Rating


class RatingOut(Out):
    """What an answer is rated now, and which model gave it by which of the alias' moves."""

    id: str
    object: Literal["model.alias.rating"]
    rating: Rating
    model: str
    move: int


class CanaryOut(Out):
    model: str
    percent: int


class StateOut(Out):
    """What an alias stands for."""

    model: str
    canary: CanaryOut | None

    @classmethod
    def of(cls, state: AliasState) -> "StateOut":
        canary = None
        if state.canary is not None and state.percent is not None:
            canary = CanaryOut(model=state.canary, percent=state.percent)
        return cls(model=state.model, canary=canary)


class AnswersOut(Out):
    """What one model answered for an alias. Rates and means are null where there is nothing to take them of."""

    model: str
    suffix: str | None
    version: int | None
    answers: int  # that were whole
    failed: int
    stop_rate: float | None  # of the whole ones, that ended by themselves and not at their greatest length
    mean_tokens: float | None
    mean_seconds: float | None
    rated_up: int
    rated_down: int

    @classmethod
    def of(cls, model: str, version: tuple[str, int] | None, counts: AnswerCounts) -> "AnswersOut":
        return cls(
            model=model,
            suffix=None if version is None else version[0],
            version=None if version is None else version[1],
            answers=counts.answers,
            failed=counts.failed,
            stop_rate=ratio(counts.stopped, counts.answers),
            mean_tokens=ratio(counts.tokens, counts.answers),
            mean_seconds=ratio(counts.seconds, counts.answers),
            rated_up=counts.rated_up,
            rated_down=counts.rated_down,
        )


class AliasOut(StateOut):
    """An alias as it stands: since its newest move its models have given these answers."""

    id: str
    object: Literal["model.alias"]
    created_at: int
    moved_at: int
    move: int  # number of its newest move
    answers: list[AnswersOut]

    @classmethod
    def of_alias(cls, alias: Alias, answers: list[AnswersOut]) -> "AliasOut":
        return cls(
            **dict(StateOut.of(alias.state)),
            id=alias.name,
            object="model.alias",
            created_at=alias.created_at,
            moved_at=alias.moved_at,
            move=alias.move,
            answers=answers,
        )


class GateAnswerOut(Out):
    model: str
    gate: str
    interval: dict[str, float] | None
    text: str


class PassedGateOut(Out):
    evaluation: str
    answers: list[GateAnswerOut]


class MoveOut(Out):
    """One line of an alias' history; ``answers`` were given from this move to the next."""

    number: int
    action: str
    at: int
    by: str
    before: StateOut | None  # null: there was no such alias
    after: StateOut | None  # null: it was deleted
    reason: str | None
    gate: PassedGateOut | None
    answers: list[AnswersOut]

    @classmethod
    def of(cls, move: AliasMoveRecord, answers: list[AnswersOut]) -> "MoveOut":
        return cls(
            number=move.number,
            action=move.action,
            at=move.created_at,
            by=move.caller,
            before=_state(move.before),
            after=_state(move.after),
            reason=move.reason,
            gate=None if move.gate is None else PassedGateOut.model_validate(move.gate),
            answers=answers,
        )


class AliasWithHistoryOut(AliasOut):
    """An alias with one page of its history, newest first; clients go on with ``after=<number of the last one>``."""

    history: list[MoveOut]
    has_more: bool


def _state(stored: Mapping[str, Any] | None) -> StateOut | None:
    return None if stored is None else StateOut.of(AliasState.model_validate(stored))
