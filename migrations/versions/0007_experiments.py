"""Let jobs belong to experiments, which train several arms and compare them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested", sa.JSON(), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("pruned", sa.JSON()),
        sa.Column("stopped", sa.Text()),
        sa.Column("choosing_id", sa.String(64)),
        sa.Column("judging_id", sa.String(64)),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger()),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_experiments_status")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
        sa.UniqueConstraint("caller", "idempotency_key", name="uq_experiments_caller_idempotency_key"),
    )
    op.create_index("ix_experiments_status_id", "experiments", ["status", "id"])
    op.create_table(
        "experiment_runs",
        _experiment_id(),
        sa.Column("arm", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("rate_factor", sa.Double(), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        _of_experiment("experiment_runs"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_experiment_runs_job_id"),
        sa.PrimaryKeyConstraint("experiment_id", "arm", "seed", "rate_factor", name="pk_experiment_runs"),
        sa.UniqueConstraint("job_id", name="uq_experiment_runs_job_id"),
    )
    op.create_table(
        "experiment_files",
        sa.Column("file_id", sa.String(64), nullable=False),
        _experiment_id(),
        _of_experiment("experiment_files"),
        sa.PrimaryKeyConstraint("file_id", "experiment_id", name="pk_experiment_files"),
    )


def downgrade() -> None:
    for table in ("experiment_files", "experiment_runs", "experiments"):
        op.drop_table(table)


def _experiment_id() -> sa.Column[str]:
    return sa.Column("experiment_id", sa.String(64), nullable=False)


def _of_experiment(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=f"fk_{table}_experiment_id")
