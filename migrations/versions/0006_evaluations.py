"""Let jobs be of two kinds: those that train, and those that score models; with the rows that the latter come to."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_INDEXES = (("kind", "id"), ("status", "kind", "id"), ("status", "kind", "base_model", "id"))
_REPLACED = ("status", "base_model", "id")
_OF_JOBS = ("idempotency", "job_metadata", "attempts", "events")
_UNFINISHED = "status NOT IN ('succeeded', 'failed', 'cancelled')"
_SERVED = (
    "NOT EXISTS (SELECT 1 FROM adapters AS published "
    "WHERE published.job_id = checkpoints.job_id AND published.state = 'deleted')"
)
# Where manifests are named: the table or tables, the column, and when a row of it counts.
_MANIFESTS = (
    ("adapters", "adapters.adapter_sha256", "adapters.state = 'live'"),
    ("checkpoints", "checkpoints.adapter_sha256", _SERVED),
    (
        "jobs",
        "jobs.continue_from_sha256",
        f"jobs.continue_from_sha256 IS NOT NULL AND jobs.{_UNFINISHED}",
    ),
)
_ASKED = (
    "evaluation_adapters JOIN jobs ON jobs.id = evaluation_adapters.job_id",
    "evaluation_adapters.adapter_sha256",
    f"jobs.{_UNFINISHED}",
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.String(16), nullable=False, server_default="fine_tuning"))
    for columns in _INDEXES:
        op.create_index(_name(columns), "jobs", list(columns))
    op.drop_index(_name(_REPLACED), "jobs")
    _create_tables()
    _make_views((*_MANIFESTS, _ASKED))


def downgrade() -> None:
    _make_views(_MANIFESTS)
    for table in ("evaluation_rows", "evaluation_examples", "evaluation_adapters"):
        op.drop_table(table)
    for table in _OF_JOBS:  # a version without evaluations would try to train them
        op.execute(f"DELETE FROM {table} WHERE job_id IN (SELECT id FROM jobs WHERE kind <> 'fine_tuning')")
    # those of a later version, that no job trained
    op.execute("DELETE FROM adapters WHERE job_id IN (SELECT id FROM jobs WHERE kind <> 'fine_tuning')")
    op.execute("DELETE FROM jobs WHERE kind <> 'fine_tuning'")
    op.create_index(_name(_REPLACED), "jobs", list(_REPLACED))
    for columns in _INDEXES:
        op.drop_index(_name(columns), "jobs")
    op.drop_column("jobs", "kind")


def _name(columns: tuple[str, ...]) -> str:
    return f"ix_jobs_{'_'.join(columns)}"


def _create_tables() -> None:
    op.create_table(
        "evaluation_adapters",
        _job_id(),
        sa.Column("adapter_sha256", sa.String(64), nullable=False),
        _of_job("evaluation_adapters"),
        sa.PrimaryKeyConstraint("job_id", "adapter_sha256", name="pk_evaluation_adapters"),
    )
    op.create_index("ix_evaluation_adapters_adapter_sha256", "evaluation_adapters", ["adapter_sha256"])
    op.create_table(
        "evaluation_examples",
        _job_id(),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("cluster", sa.String(16), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        _of_job("evaluation_examples"),
        sa.PrimaryKeyConstraint("job_id", "row", name="pk_evaluation_examples"),
    )
    op.create_table(
        "evaluation_rows",
        _job_id(),
        sa.Column("model_index", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text()),
        sa.Column("stopped", sa.Boolean()),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        _of_job("evaluation_rows"),
        sa.PrimaryKeyConstraint("job_id", "model_index", "row", name="pk_evaluation_rows"),
    )


def _job_id() -> sa.Column[str]:
    return sa.Column("job_id", sa.String(64), nullable=False)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id")


def _make_views(manifests: tuple[tuple[str, str, str], ...]) -> None:
    """Make the third revision's two views anew, in which each arm begins at a column with an index."""
    op.execute("DROP VIEW blob_references")
    op.execute("DROP VIEW manifest_references")
    named = " UNION ALL ".join(
        f"SELECT {name} AS sha256 FROM {table} WHERE {holds}" for table, name, holds in manifests
    )
    parts = (
        f"SELECT blob_parts.sha256 FROM {table} JOIN blob_parts ON {name} = blob_parts.manifest_sha256 WHERE {holds}"
        for table, name, holds in manifests
    )
    op.execute(f"CREATE VIEW manifest_references AS {named}")
    op.execute(f"CREATE VIEW blob_references AS {' UNION ALL '.join(('SELECT sha256 FROM files', named, *parts))}")
