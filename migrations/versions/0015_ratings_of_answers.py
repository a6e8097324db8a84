"""Count what people think of answers for aliases, and give each alias the key by which it knows their ids."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_ALIASES = sa.table("aliases", sa.column("name", sa.Text()), sa.column("answer_key", sa.Text()))


def upgrade() -> None:
    op.add_column("aliases", sa.Column("answer_key", sa.Text(), nullable=False, server_default=""))
    connection = op.get_bind()
    for name in connection.execute(sa.select(_ALIASES.c.name)).scalars().all():
        update = sa.update(_ALIASES).where(_ALIASES.c.name == name)
        connection.execute(update.values(answer_key=secrets.token_hex(16)))
    for column in ("rated_up", "rated_down"):
        op.add_column("alias_answers", sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "alias_ratings",
        sa.Column("answer_id", sa.Text(), nullable=False),
        sa.Column("is_up", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("answer_id", name="pk_alias_ratings"),
    )
    op.create_index("ix_alias_ratings_created_at", "alias_ratings", ["created_at"])


def downgrade() -> None:
    op.drop_table("alias_ratings")
    for column in ("rated_down", "rated_up"):
        op.drop_column("alias_answers", column)
    op.drop_column("aliases", "answer_key")
