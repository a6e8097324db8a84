"""Let jobs be deleted, and what is old leave: what is asked then has indexes, and expired files a row each."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_INDEXES = (("jobs", "rerun_of"), ("idempotency", "job_id"), ("idempotency", "created_at"))


def upgrade() -> None:
    op.create_table(
        "expired_files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("expired_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_expired_files"),
    )
    for table, column in _INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    for table, column in reversed(_INDEXES):
        op.drop_index(f"ix_{table}_{column}", table)
    op.drop_table("expired_files")
