"""Number the models of each family, and let aliases stand for models.

Models that are there already get their numbers in the order in which they were published, deleted ones too.
"""

from collections import Counter

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "model_families",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("suffix", sa.Text(), nullable=False),
        sa.Column("newest", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "suffix", name="pk_model_families"),
    )
    for column in (
        sa.Column("organization", sa.Text()),
        sa.Column("suffix", sa.Text()),
        sa.Column("version", sa.Integer()),
    ):
        op.add_column("adapters", column)
    _number_models()
    op.create_index(
        "ix_adapters_organization_suffix_version", "adapters", ["organization", "suffix", "version"], unique=True
    )
    _create_aliases()


def downgrade() -> None:
    for table in ("alias_answers", "alias_moves", "aliases"):
        op.drop_table(table)
    op.drop_index("ix_adapters_organization_suffix_version", "adapters")
    for column in ("version", "suffix", "organization"):
        op.drop_column("adapters", column)
    op.drop_table("model_families")


def _number_models() -> None:
    connection = op.get_bind()
    newest: Counter[tuple[str, str]] = Counter()
    named = connection.execute(
        sa.text(
            "SELECT adapters.id, adapters.name, jobs.suffix FROM adapters JOIN jobs ON jobs.id = adapters.job_id "
            "WHERE jobs.suffix IS NOT NULL ORDER BY adapters.id"
        )
    ).all()
    for adapter_id, name, suffix in named:
        organization = name.split(":")[2]  # ft:base:organization:suffix:id
        newest[organization, suffix] += 1
        connection.execute(
            sa.text(
                "UPDATE adapters SET organization = :organization, suffix = :suffix, version = :version WHERE id = :id"
            ),
            {"organization": organization, "suffix": suffix, "version": newest[organization, suffix], "id": adapter_id},
        )
    for (organization, suffix), number in newest.items():
        connection.execute(
            sa.text("INSERT INTO model_families VALUES (:organization, :suffix, :newest)"),
            {"organization": organization, "suffix": suffix, "newest": number},
        )


def _create_aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("canary", sa.Text()),
        sa.Column("percent", sa.Integer()),
        sa.Column("move", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_aliases"),
    )
    op.create_index("ix_aliases_model", "aliases", ["model"])
    op.create_index("ix_aliases_canary", "aliases", ["canary"])
    op.create_table(
        "alias_moves",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON()),
        sa.Column("after", sa.JSON()),
        sa.Column("reason", sa.Text()),
        sa.Column("gate", sa.JSON()),
        sa.Column("back_to", sa.Integer()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("action IN ('set', 'rollback', 'delete')", name=op.f("ck_alias_moves_action")),
        sa.ForeignKeyConstraint(["alias"], ["aliases.name"], name="fk_alias_moves_alias"),
        sa.PrimaryKeyConstraint("alias", "number", name="pk_alias_moves"),
    )
    op.create_table(
        "alias_answers",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("move", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("stopped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("alias", "move", "model", name="pk_alias_answers"),
    )
