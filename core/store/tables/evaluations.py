"""What evaluations ask, and what they found."""

from typing import Any

from sqlalchemy import Boolean, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.tables.record import ID, Record


class EvaluationExampleRecord(Record):
    """A row that an evaluation asks its models, numbered from 0 in the order of the file's lines."""

    __tablename__ = "evaluation_examples"

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[int]
    cluster: Mapped[str] = mapped_column(String(16))  # equal for rows of one normalised prompt
    prompt: Mapped[str]
    reference: Mapped[str]


class EvaluationRowRecord(Record):
    """What one model made of one row. Its key is why no row is scored twice, however often a worker dies."""

    __tablename__ = "evaluation_rows"

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    model_index: Mapped[int] = mapped_column(primary_key=True)  # its place among the evaluation's models, from 0
    row: Mapped[int] = mapped_column(primary_key=True)
    answer: Mapped[str | None]  # None: no metric needs one
    stopped: Mapped[bool | None] = mapped_column(Boolean)  # the model closed its answer itself
    tokens: Mapped[int]  # of the reference, that the model was scored on
    scores: Mapped[dict[str, Any]]  # a number or null by metric
