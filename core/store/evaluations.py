"""The rows of evaluations: which they are, what each model made of each, and which have been scored.

An evaluation itself is a job, in `core.store.jobs`. What is written here a worker writes in a transaction in which it
holds the job's lease; a row that is there already stays as it is, so no row is scored twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import ModelScores, RowScores, ScoredRow
from core.store.db import Session, insert_into
from core.store.tables import EvaluationExampleRecord, EvaluationRowRecord, Record

_AT_ONCE = 500  # rows of one statement


@dataclass(frozen=True)
class AnsweredRow:
    """A row with what every model made of it, in the models' order; None: nothing yet."""

    row: int
    line: int
    cluster: str
    prompt: str
    reference: str
    answers: tuple[ScoredRow | None, ...]


def add_examples(session: Session, job_id: str, rows: Mapping[int, EvaluationRow]) -> None:
    """Record which rows are asked, by their numbers; once is enough."""
    _insert(
        session,
        EvaluationExampleRecord,
        [
            {
                "job_id": job_id,
                "row": number,
                "line": row.line,
                "cluster": row.cluster,
                "prompt": row.prompt,
                "reference": row.reference,
            }
            for number, row in rows.items()
        ],
    )


def add_scored(session: Session, job_id: str, scored: Sequence[ScoredRow]) -> None:
    """Record scored rows. U+0000, which a model can write and PostgreSQL cannot hold, becomes U+FFFD in an answer."""
    values = [{"job_id": job_id} | row.model_dump() for row in scored]
    for value in values:
        value["answer"] = None if value["answer"] is None else value["answer"].replace("\0", "\ufffd")
    _insert(session, EvaluationRowRecord, values)


def list_scored(session: Session, job_id: str) -> set[tuple[int, int]]:
    """List the rows that are scored, each as its model's place and its own."""
    found = select(EvaluationRowRecord.model_index, EvaluationRowRecord.row).where(EvaluationRowRecord.job_id == job_id)
    return {(model_index, row) for model_index, row in session.execute(found)}


def list_scores(session: Session, job_id: str, models: Sequence[str], rows: range) -> list[ModelScores]:
    """List each model's scores of rows; of a row that it was not asked yet, or never is, there are none.

    Args:
        models: their names, in the evaluation's order.
        rows: their numbers.
    """
    examples = session.execute(
        select(EvaluationExampleRecord.row, EvaluationExampleRecord.line, EvaluationExampleRecord.cluster)
        .where(EvaluationExampleRecord.job_id == job_id, EvaluationExampleRecord.row.between(rows.start, rows.stop - 1))
        .order_by(EvaluationExampleRecord.row)
    ).all()
    found = select(
        EvaluationRowRecord.model_index, EvaluationRowRecord.row, EvaluationRowRecord.tokens, EvaluationRowRecord.scores
    ).where(
        EvaluationRowRecord.job_id == job_id,
        EvaluationRowRecord.model_index.between(0, len(models) - 1),
        EvaluationRowRecord.row.between(rows.start, rows.stop - 1),
    )
    scored = {(model_index, row): (tokens, scores) for model_index, row, tokens, scores in session.execute(found)}
    nothing: tuple[int, dict[str, float | None]] = (0, {})
    return [
        ModelScores(
            name, tuple(RowScores(line, cluster, *scored.get((index, row), nothing)) for row, line, cluster in examples)
        )
        for index, name in enumerate(models)
    ]


def list_answered(session: Session, job_id: str, rows: Sequence[int], models: int) -> list[AnsweredRow]:
    """List some rows with all that was made of them, in the order of ``rows``; those that there are not are left out.

    Args:
        models: how many the evaluation asks.
    """
    examples = session.scalars(
        select(EvaluationExampleRecord).where(
            EvaluationExampleRecord.job_id == job_id, EvaluationExampleRecord.row.in_(rows)
        )
    )
    answers = {
        (record.model_index, record.row): _scored(record)
        for record in session.scalars(
            select(EvaluationRowRecord).where(
                EvaluationRowRecord.job_id == job_id,
                EvaluationRowRecord.model_index.between(0, models - 1),
                EvaluationRowRecord.row.in_(rows),
            )
        )
    }
    there = {
        example.row: AnsweredRow(
            example.row,
            example.line,
            example.cluster,
            example.prompt,
            example.reference,
            tuple(answers.get((index, example.row)) for index in range(models)),
        )
        for example in examples
    }
    return [there[row] for row in rows if row in there]


def _scored(record: EvaluationRowRecord) -> ScoredRow:
    return ScoredRow(
        model_index=record.model_index,
        row=record.row,
        answer=record.answer,
        stopped=record.stopped,
        tokens=record.tokens,
        scores=record.scores,
    )


def _insert(session: Session, record: type[Record], values: Sequence[dict[str, Any]]) -> None:
    for begin in range(0, len(values), _AT_ONCE):
        session.execute(insert_into(session, record).on_conflict_do_nothing(), values[begin : begin + _AT_ONCE])
