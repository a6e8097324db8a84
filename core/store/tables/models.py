"""Models, their families, and the aliases that stand for them."""

from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.store.tables.record import DIGEST, ID, AdapterState, AliasAction, Record


class AdapterRecord(Record):
    """A job's published result, served under ``name``; where its job named a family, one of the family's versions."""

    __tablename__ = "adapters"
    __table_args__ = (
        Index("ix_adapters_state_id", "state", "id"),
        Index("ix_adapters_organization_suffix_version", "organization", "suffix", "version", unique=True),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # adapter-…
    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), unique=True)
    token: Mapped[int]  # of the attempt that published it
    name: Mapped[str] = mapped_column(Text, unique=True)  # ft:…
    base_model: Mapped[str]
    adapter_sha256: Mapped[str] = mapped_column(DIGEST, index=True)  # of its manifest
    bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[AdapterState]
    organization: Mapped[str | None]  # this and the next two: None where its job named no family
    suffix: Mapped[str | None]
    version: Mapped[int | None]
    created_at: Mapped[int] = mapped_column(BigInteger)


class ModelFamilyRecord(Record):
    """Models of one organisation and suffix. Their versions are numbered from 1, and no number is given twice."""

    __tablename__ = "model_families"

    organization: Mapped[str] = mapped_column(Text, primary_key=True)
    suffix: Mapped[str] = mapped_column(Text, primary_key=True)
    newest: Mapped[int]


class AliasRecord(Record):
    """A name for a model, or for two by percent. The row stays when the alias is deleted: its moves are numbered on."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str | None] = mapped_column(Text, index=True)  # None: deleted
    canary: Mapped[str | None] = mapped_column(Text, index=True)
    percent: Mapped[int | None]  # of its callers, that the canary answers
    move: Mapped[int]  # number of its newest move
    created_at: Mapped[int] = mapped_column(BigInteger)  # since it was last deleted
    moved_at: Mapped[int] = mapped_column(BigInteger)
    answer_key: Mapped[str] = mapped_column(Text)  # by which ids of answers for it are known


class AliasMoveRecord(Record):
    """One entry of an alias' append-only history, numbered from 1 without gaps."""

    __tablename__ = "alias_moves"

    alias: Mapped[str] = mapped_column(Text, ForeignKey("aliases.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[AliasAction]
    caller: Mapped[str]
    before: Mapped[dict[str, Any] | None]  # core.store.aliases.records.AliasState; None: there was no such alias
    after: Mapped[dict[str, Any] | None]  # the same; None: deleted
    reason: Mapped[str | None]
    gate: Mapped[dict[str, Any] | None]  # what allowed it, as the API tells it; None: nothing had to
    back_to: Mapped[int | None]  # the move whose state a rollback from here restores
    created_at: Mapped[int] = mapped_column(BigInteger)


class AliasAnswersRecord(Record):
    """What a model answered for an alias from one of its moves to the next; API processes add to it."""

    __tablename__ = "alias_answers"

    alias: Mapped[str] = mapped_column(Text, primary_key=True)
    move: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    answers: Mapped[int] = mapped_column(BigInteger)  # that were whole
    stopped: Mapped[int] = mapped_column(BigInteger)  # of those, that the model closed or a stop sequence ended
    failed: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)  # of whole answers, as `seconds` is
    seconds: Mapped[float] = mapped_column(Double)
    rated_up: Mapped[int] = mapped_column(BigInteger)
    rated_down: Mapped[int] = mapped_column(BigInteger)


class AliasRatingRecord(Record):
    """What somebody thought of an answer that was given for an alias, as long as it can be rated."""

    __tablename__ = "alias_ratings"

    answer_id: Mapped[str] = mapped_column(Text, primary_key=True)
    is_up: Mapped[bool]
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)  # of the answer
