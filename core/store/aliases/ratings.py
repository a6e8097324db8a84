"""What people thought of answers for an alias: one rating an answer, counted for the model that gave it.

A rating is kept as long as the answer can be rated, so that a later one takes its place and is not counted beside it.
"""

from typing import Final, Literal

from sqlalchemy import delete, select

from core.errors import AnswerNotFound
from core.store.aliases import answers, records
from core.store.aliases.answer_ids import AnswerId, model_of, parse_answer_id
from core.store.aliases.answers import AnswerCounts, AnsweredFor
from core.store.aliases.records import AliasState
from core.store.db import Session, insert_into
from core.store.tables import AliasMoveRecord, AliasRatingRecord

Rating = Literal["up", "down"]

RATED_WITHIN_S: Final = 30 * 86_400


def rate(session: Session, alias: str, answer_id: str, rating: Rating, now: int) -> AnsweredFor:
    """Count a rating for the model that gave the answer; one that was given before is taken back.

    Raises:
        AliasNotFound: there is no such alias.
        AnswerNotFound: no answer for it has this id, or it was given too long ago.
    """
    key = records.get(session, alias).answer_key
    answer = parse_answer_id(answer_id)
    move = None if answer is None else session.get(AliasMoveRecord, (alias, answer.move))
    if answer is None or move is None or move.after is None or now - answer.created_at > RATED_WITHIN_S:
        raise AnswerNotFound(answer_id)
    model = model_of(answer, alias, AliasState.model_validate(move.after).models, key)
    if model is None:
        raise AnswerNotFound(answer_id)
    answered = AnsweredFor(alias, answer.move, model)
    if counts := _write(session, answer, is_up=rating == "up"):
        answers.add(session, {answered: counts})
    session.execute(delete(AliasRatingRecord).where(AliasRatingRecord.created_at < now - RATED_WITHIN_S))
    return answered


def _write(session: Session, answer: AnswerId, *, is_up: bool) -> AnswerCounts | None:
    """Keep a rating, and give what is to be added to the counts; None: it is what it was."""
    insert = insert_into(session, AliasRatingRecord).values(
        answer_id=answer.plain, is_up=is_up, created_at=answer.created_at
    )
    if session.scalar(insert.on_conflict_do_nothing().returning(AliasRatingRecord.answer_id)):
        return AnswerCounts(rated_up=int(is_up), rated_down=int(not is_up))
    row = session.scalars(
        select(AliasRatingRecord).where(AliasRatingRecord.answer_id == answer.plain).with_for_update()
    ).one()
    if row.is_up == is_up:
        return None
    row.is_up = is_up
    session.flush()
    change = 1 if is_up else -1
    return AnswerCounts(rated_up=change, rated_down=-change)
