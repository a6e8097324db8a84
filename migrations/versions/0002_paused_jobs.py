"""Let jobs be paused: a status of its own, and beside it the wish that a running job's worker reads."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BEFORE = ("queued", "running", "succeeded", "failed", "cancelled")
_SINCE = ("queued", "running", "paused", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pause_requested_at", sa.BigInteger()))
    _change_statuses(_BEFORE, _SINCE)


def downgrade() -> None:
    # a version without pauses can only let them run
    op.execute("UPDATE jobs SET status = 'queued' WHERE status = 'paused'")
    _change_statuses(_SINCE, _BEFORE)
    op.drop_column("jobs", "pause_requested_at")


def _change_statuses(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_jobs_status"), "jobs", type_="check")
        op.create_check_constraint(op.f("ck_jobs_status"), "jobs", sa.column("status").in_(new))
        return
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("status", existing_type=_status(old), type_=_status(new), existing_nullable=False)
    # the first revision's, which is gone with the table that the batch replaced by a copy
    op.execute(
        "CREATE TRIGGER jobs_ended BEFORE UPDATE ON jobs WHEN OLD.status IN ('succeeded', 'failed', 'cancelled') "
        "BEGIN SELECT RAISE(ABORT, 'a job that has ended cannot be changed'); END"
    )


def _status(values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name="status", native_enum=False, create_constraint=True, length=16)
