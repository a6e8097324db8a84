"""Experiments, with the jobs and files that are theirs."""

from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.experiments.status import ExperimentStatus
from core.store.tables.record import DIGEST, ID, Record


class ExperimentRecord(Record):
    """Arms that are trained and compared. What is done next follows from its plan and from what became of its jobs."""

    __tablename__ = "experiments"
    __table_args__ = (
        Index("ix_experiments_status_id", "status", "id"),
        UniqueConstraint("caller", "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # exp-…
    caller: Mapped[str]
    idempotency_key: Mapped[str | None]
    status: Mapped[ExperimentStatus]
    requested: Mapped[dict[str, Any]]  # the request's fields as they were sent
    request_sha256: Mapped[str] = mapped_column(DIGEST)
    plan: Mapped[dict[str, Any]]  # core.experiments.plan.ExperimentPlan
    version: Mapped[int] = mapped_column(default=0)  # grows with each step; a step must name the one it was decided by
    pruned: Mapped[list[dict[str, Any]] | None]  # core.experiments.pruning.PrunedArm; None: nothing is decided yet
    stopped: Mapped[str | None]  # why not all seeds were trained
    choosing_id: Mapped[str | None] = mapped_column(ID)  # the evaluation by which arms are pruned
    judging_id: Mapped[str | None] = mapped_column(ID)  # the one that verdicts go by
    error: Mapped[str | None]  # a sentence
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class ExperimentRunRecord(Record):
    """A job that an experiment made. Its key is why no run is made twice."""

    __tablename__ = "experiment_runs"

    experiment_id: Mapped[str] = mapped_column(ID, ForeignKey("experiments.id"), primary_key=True)
    arm: Mapped[int] = mapped_column(primary_key=True)  # its place in the plan
    seed: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    rate_factor: Mapped[float] = mapped_column(Double, primary_key=True)  # of the arm's learning rate
    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), unique=True)
    judged_as: Mapped[str | None]  # the model whose scores count for this run's, as it has the same bytes


class ExperimentFileRecord(Record):
    """A file that an experiment needs as long as it runs."""

    __tablename__ = "experiment_files"

    file_id: Mapped[str] = mapped_column(ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ID, ForeignKey("experiments.id"), primary_key=True)
