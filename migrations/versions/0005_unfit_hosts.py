"""Let hosts give jobs back that they cannot run: why a job waits, and for how long a host leaves it alone."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("waiting_reason", sa.Text()))
    op.add_column("attempts", sa.Column("retry_after_s", sa.Integer()))
    op.create_index("ix_attempts_host_ended_at", "attempts", ["host", "ended_at"])


def downgrade() -> None:
    op.drop_index("ix_attempts_host_ended_at", "attempts")
    op.drop_column("attempts", "retry_after_s")
    op.drop_column("jobs", "waiting_reason")
