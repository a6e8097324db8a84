"""Count what refers to the stored bytes: a row for each blob, the parts of each manifest, and who refers to them.

The rows of blobs that are there already are made from the tables that name them; how large a manifest is, and which
files it names, stands in the store alone: ``core.store.references.parts`` adds it, and until then nothing is freed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_UNFINISHED = "status NOT IN ('succeeded', 'failed', 'cancelled')"
_NOW = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM now()) AS BIGINT)",
}


def upgrade() -> None:
    state = sa.Enum("live", "deleting", name="state", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("state", state, nullable=False),
        sa.Column("touched_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_blobs"),
    )
    op.create_index("ix_blobs_state_touched_at", "blobs", ["state", "touched_at"])
    op.create_table(
        "blob_parts",
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("manifest_sha256", "sha256", name="pk_blob_parts"),
    )
    op.create_index("ix_blob_parts_sha256", "blob_parts", ["sha256"])
    _name_adapters_of_jobs()
    op.create_index("ix_adapters_adapter_sha256", "adapters", ["adapter_sha256"])
    op.create_index("ix_checkpoints_adapter_sha256", "checkpoints", ["adapter_sha256"])
    op.execute(
        "INSERT INTO blobs (sha256, bytes, state, touched_at) "
        f"SELECT sha256, MAX(bytes), 'live', {_NOW[op.get_bind().dialect.name]} FROM ("
        "SELECT sha256, bytes FROM files UNION ALL "
        "SELECT adapter_sha256, CAST(NULL AS BIGINT) FROM adapters UNION ALL "
        "SELECT adapter_sha256, CAST(NULL AS BIGINT) FROM checkpoints) AS named GROUP BY sha256"
    )
    # A later batch migration of one of their tables on SQLite has to drop both and make them again.
    op.execute(f"CREATE VIEW manifest_references AS {_manifest_references()}")
    op.execute(f"CREATE VIEW blob_references AS {_blob_references()}")


def downgrade() -> None:
    op.execute("DROP VIEW blob_references")
    op.execute("DROP VIEW manifest_references")
    op.drop_index("ix_checkpoints_adapter_sha256", "checkpoints")
    op.drop_index("ix_adapters_adapter_sha256", "adapters")
    op.drop_index("ix_jobs_continue_from_sha256", "jobs")
    op.drop_column("jobs", "continue_from_sha256")
    op.drop_table("blob_parts")
    op.drop_table("blobs")


def _name_adapters_of_jobs() -> None:
    """Give what unfinished jobs go on from a column: SQLite refuses to look into JSON within a view."""
    op.add_column("jobs", sa.Column("continue_from_sha256", sa.String(64)))
    op.create_index("ix_jobs_continue_from_sha256", "jobs", ["continue_from_sha256"])
    in_spec = {
        "sqlite": "json_extract(spec, '$.continue_from.adapter_sha256')",
        "postgresql": "(spec -> 'continue_from' ->> 'adapter_sha256')",
    }
    op.execute(f"UPDATE jobs SET continue_from_sha256 = {in_spec[op.get_bind().dialect.name]} WHERE {_UNFINISHED}")


def _manifest_references() -> str:
    """Give the manifests of live adapters, of served checkpoints, and of those that unfinished jobs go on from."""
    return " UNION ALL ".join(
        f"SELECT {name} AS sha256 FROM {table} WHERE {holds}" for table, name, holds in _manifests()
    )


def _blob_references() -> str:
    """Give those manifests and their parts, and all files: one that an unfinished job uses cannot be deleted.

    Each arm begins at a column with an index and asks the rest of the row it finds, so that who refers to one
    blob is answered without reading any table whole.
    """
    parts = (
        f"SELECT blob_parts.sha256 FROM blob_parts JOIN {table} ON {name} = blob_parts.manifest_sha256 WHERE {holds}"
        for table, name, holds in _manifests()
    )
    return " UNION ALL ".join(("SELECT sha256 FROM files", _manifest_references(), *parts))


def _manifests() -> tuple[tuple[str, str, str], ...]:
    """Give each table that names manifests, the column, and when a row of it counts."""
    served = (
        "NOT EXISTS (SELECT 1 FROM adapters AS published "
        "WHERE published.job_id = checkpoints.job_id AND published.state = 'deleted')"
    )
    goes_on = f"jobs.continue_from_sha256 IS NOT NULL AND jobs.{_UNFINISHED}"
    return (
        ("adapters", "adapters.adapter_sha256", "adapters.state = 'live'"),
        ("checkpoints", "checkpoints.adapter_sha256", served),
        ("jobs", "jobs.continue_from_sha256", goes_on),
    )
