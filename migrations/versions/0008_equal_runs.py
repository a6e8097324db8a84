"""Let runs of an experiment that made the same bytes be judged as one model."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("experiment_runs", sa.Column("judged_as", sa.Text()))


def downgrade() -> None:
    op.drop_column("experiment_runs", "judged_as")
