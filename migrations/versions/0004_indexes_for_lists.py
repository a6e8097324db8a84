"""Let lists, claims and waits be answered from indexes, however many jobs there are."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = {
    "jobs": (
        ("status", "base_model", "id"),
        ("caller", "request_sha256", "id"),
        ("training_file_id", "status"),
        ("validation_file_id", "status"),
    ),
    "job_metadata": (("key", "value", "job_id"),),
    "files": (("purpose", "id"),),
    "adapters": (("state", "id"),),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("estimate_seconds", sa.Double()))
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_metadata_job_id"),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_job_metadata"),
    )
    _fill()
    for table, indexes in _INDEXES.items():
        for columns in indexes:
            op.create_index(_name(table, columns), table, list(columns))
    op.drop_index("ix_jobs_caller_request_sha256", "jobs")
    if op.get_bind().dialect.name == "postgresql":
        # Heartbeats change jobs' rows in place as long as their page has room, and then need no index entry.
        op.execute("ALTER TABLE jobs SET (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02)")


def downgrade() -> None:
    op.create_index("ix_jobs_caller_request_sha256", "jobs", ["caller", "request_sha256"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE jobs RESET (fillfactor, autovacuum_vacuum_scale_factor)")
    for table, indexes in _INDEXES.items():
        for columns in indexes:
            op.drop_index(_name(table, columns), table)
    op.drop_table("job_metadata")
    op.drop_column("jobs", "estimate_seconds")


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"


def _fill() -> None:
    # rows of ended jobs cannot be changed, and nobody waits for them
    waiting = "status IN ('queued', 'running', 'paused')"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "UPDATE jobs SET estimate_seconds = CAST(estimate #>> '{seconds,total}' AS double precision) "
            f"WHERE {waiting}"
        )
        op.execute(
            "INSERT INTO job_metadata (job_id, key, value) SELECT jobs.id, pair.key, pair.value "
            "FROM jobs, json_each_text(job_metadata) AS pair WHERE json_typeof(job_metadata) = 'object'"
        )
        return
    op.execute(f"UPDATE jobs SET estimate_seconds = json_extract(estimate, '$.seconds.total') WHERE {waiting}")
    op.execute(
        "INSERT INTO job_metadata (job_id, key, value) SELECT jobs.id, pair.key, pair.value "
        "FROM jobs, json_each(jobs.job_metadata) AS pair WHERE json_type(jobs.job_metadata) = 'object'"
    )
