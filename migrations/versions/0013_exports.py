"""Let jobs be exports: the files that they made, which stored bytes stay for; and let any job keep an adapter.

The table of adapters that evaluations ask becomes that of adapters that jobs need.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_OF_JOBS = ("idempotency", "job_metadata", "attempts", "events")
_UNFINISHED = "status NOT IN ('succeeded', 'failed', 'cancelled')"
_SERVED = (
    "NOT EXISTS (SELECT 1 FROM adapters AS published "
    "WHERE published.job_id = checkpoints.job_id AND published.state = 'deleted')"
)
_FILES = "SELECT sha256 FROM files"
_EXPORTS = "SELECT sha256 FROM export_files"


def upgrade() -> None:
    _drop_views()
    _rename_adapters("evaluation_adapters", "job_adapters")
    op.create_table(
        "export_files",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_export_files_job_id"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_export_files"),
    )
    op.create_index("ix_export_files_sha256", "export_files", ["sha256"])
    _make_views("job_adapters", (_FILES, _EXPORTS))


def downgrade() -> None:
    _drop_views()
    op.drop_table("export_files")
    op.execute("DELETE FROM job_adapters WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'export')")
    for table in _OF_JOBS:  # a version without exports would not know what they are
        op.execute(f"DELETE FROM {table} WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'export')")
    op.execute("DELETE FROM jobs WHERE kind = 'export'")
    _rename_adapters("job_adapters", "evaluation_adapters")
    _make_views("evaluation_adapters", (_FILES,))


def _rename_adapters(old: str, new: str) -> None:
    """Copy the table under its new name, as its constraints are named by it."""
    op.create_table(
        new,
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("adapter_sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{new}_job_id"),
        sa.PrimaryKeyConstraint("job_id", "adapter_sha256", name=f"pk_{new}"),
    )
    op.execute(f"INSERT INTO {new} SELECT job_id, adapter_sha256 FROM {old}")
    op.drop_table(old)
    op.create_index(f"ix_{new}_adapter_sha256", new, ["adapter_sha256"])


def _drop_views() -> None:
    op.execute("DROP VIEW blob_references")
    op.execute("DROP VIEW manifest_references")


def _make_views(job_adapters: str, files: tuple[str, ...]) -> None:
    """Make the sixth revision's two views anew.

    Args:
        job_adapters: the table of the adapters that jobs need.
        files: what names stored bytes that are no manifests.
    """
    # Where manifests are named: the table or tables, the column, and when a row of it counts.
    manifests = (
        ("adapters", "adapters.adapter_sha256", "adapters.state = 'live'"),
        ("checkpoints", "checkpoints.adapter_sha256", _SERVED),
        (
            "jobs",
            "jobs.continue_from_sha256",
            f"jobs.continue_from_sha256 IS NOT NULL AND jobs.{_UNFINISHED}",
        ),
        (
            f"{job_adapters} JOIN jobs ON jobs.id = {job_adapters}.job_id",
            f"{job_adapters}.adapter_sha256",
            f"jobs.{_UNFINISHED}",
        ),
    )
    named = " UNION ALL ".join(
        f"SELECT {name} AS sha256 FROM {table} WHERE {holds}" for table, name, holds in manifests
    )
    parts = (
        f"SELECT blob_parts.sha256 FROM {table} JOIN blob_parts ON {name} = blob_parts.manifest_sha256 WHERE {holds}"
        for table, name, holds in manifests
    )
    op.execute(f"CREATE VIEW manifest_references AS {named}")
    op.execute(f"CREATE VIEW blob_references AS {' UNION ALL '.join((*files, named, *parts))}")
