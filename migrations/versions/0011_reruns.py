"""Let a job be another one made again."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rerun_of", sa.String(64)))


def downgrade() -> None:
    op.drop_column("jobs", "rerun_of")
