"""Make the first tables, and keep the rows of ended jobs as they are: a trigger refuses every change."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ENDED = "OLD.status IN ('succeeded', 'failed', 'cancelled')"
_REFUSAL = "a job that has ended cannot be changed"


def _chosen(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _job_id() -> sa.Column[str]:
    return sa.Column("job_id", sa.String(64), nullable=False)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id")


def upgrade() -> None:
    _create_files()
    _create_jobs()
    _refuse_changes_of_ended_jobs()
    _create_attempts()
    _create_events()
    _create_checkpoints()
    _create_adapters()
    _create_idempotency()


def downgrade() -> None:
    for table in ("idempotency", "adapters", "checkpoints", "events", "attempts", "jobs", "files"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change_of_ended_job()")


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("status", _chosen("status", "processed", "error"), nullable=False),
        sa.Column("status_details", sa.Text()),
        sa.Column("file_type", sa.Text(), nullable=False),
        sa.Column("example_format", sa.Text()),
        sa.Column("columns", sa.JSON()),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_sha256", "files", ["sha256"])


def _create_jobs() -> None:
    status = _chosen("status", "queued", "running", "succeeded", "failed", "cancelled")
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("status", status, nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("requested", sa.JSON(), nullable=False),
        sa.Column("spec_sha256", sa.String(64), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("suffix", sa.Text()),
        sa.Column("estimate", sa.JSON()),
        sa.Column("job_metadata", sa.JSON()),
        sa.Column("training_file_id", sa.String(64), nullable=False),
        sa.Column("validation_file_id", sa.String(64)),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("hb_seq", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cancel_requested_at", sa.BigInteger()),
        sa.Column("rung_at", sa.BigInteger()),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("progress", sa.JSON()),
        sa.Column("trained_tokens", sa.BigInteger()),
        sa.Column("trained_on", sa.Text()),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_param", sa.Text()),
        sa.Column("fine_tuned_model", sa.Text()),
        sa.Column("result", sa.JSON()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_status_id", "jobs", ["status", "id"])
    op.create_index("ix_jobs_caller_request_sha256", "jobs", ["caller", "request_sha256"])


def _refuse_changes_of_ended_jobs() -> None:
    # A later batch migration of jobs on SQLite copies the table and must make this trigger again.
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER jobs_ended BEFORE UPDATE ON jobs WHEN {_ENDED} "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION refuse_change_of_ended_job() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER jobs_ended BEFORE UPDATE ON jobs FOR EACH ROW WHEN ({_ENDED}) "
        "EXECUTE FUNCTION refuse_change_of_ended_job()"
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        _job_id(),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("outcome", sa.Text()),
        sa.Column("exit_signal", sa.Integer()),
        sa.Column("last_step", sa.Integer()),
        sa.Column("resumed_from_step", sa.Integer()),
        _of_job("attempts"),
        sa.PrimaryKeyConstraint("job_id", "token", name="pk_attempts"),
    )


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(64), nullable=False),
        _job_id(),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("level", _chosen("level", "info", "warn", "error"), nullable=False),
        sa.Column("type", _chosen("type", "message", "metrics"), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _of_job("events"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("job_id", "seq", name="uq_events_job_id_seq"),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(64), nullable=False),
        _job_id(),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("adapter_sha256", sa.String(64), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _of_job("checkpoints"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.UniqueConstraint("job_id", "step", name="uq_checkpoints_job_id_step"),
        sa.UniqueConstraint("name", name="uq_checkpoints_name"),
    )


def _create_adapters() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", sa.String(64), nullable=False),
        _job_id(),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("adapter_sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", _chosen("state", "live", "deleted"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _of_job("adapters"),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.UniqueConstraint("job_id", name="uq_adapters_job_id"),
        sa.UniqueConstraint("name", name="uq_adapters_name"),
    )


def _create_idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        _job_id(),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _of_job("idempotency"),
        sa.PrimaryKeyConstraint("caller", "route", "key", name="pk_idempotency"),
    )
