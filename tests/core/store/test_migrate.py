import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from core.errors import DatabaseUnavailable, SchemaMismatch
from core.store import db, migrate, revisions
from core.store.db import Database, create_db_engine, migrating, writing
from core.store.families import next_version
from core.store.tables import BLOB_REFERENCES, MANIFEST_REFERENCES, ExperimentRecord, Record

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def db_engine(empty_url: str) -> Iterator[Engine]:
    db_engine = create_db_engine(empty_url)
    yield writing(db_engine)
    db_engine.dispose()


def _move(db_engine: Engine, revision: str, move: Callable[[Config, str], None] | None = None) -> None:
    config = Config(ROOT / "alembic.ini")
    with db_engine.begin() as connection:
        config.attributes["connection"] = connection
        (move or (command.downgrade if revision == "base" else command.upgrade))(config, revision)


def _schema(db_engine: Engine) -> dict[str, object]:
    found = inspect(db_engine)
    return {
        table: (
            # in no order: a column that a later revision adds comes last
            sorted((column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)),
            sorted(constraint["name"] or "" for constraint in found.get_check_constraints(table)),
            sorted(index["name"] or "" for index in found.get_indexes(table)),
            sorted(constraint["name"] or "" for constraint in found.get_unique_constraints(table)),
            sorted(key["name"] or "" for key in found.get_foreign_keys(table)),
            found.get_pk_constraint(table)["name"],
        )
        for table in found.get_table_names()
        if table != revisions.VERSION_TABLE
    }


def test_tables_of_the_newest_revision_are_the_ones_the_code_declares(db_engine: Engine) -> None:
    _move(db_engine, "head")
    with db_engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": revisions.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Record.metadata) == []


def test_names_and_checks_of_the_newest_revision_are_the_ones_the_code_declares(db_engine: Engine) -> None:
    _move(db_engine, "head")
    migrated = _schema(db_engine)
    _move(db_engine, "base")
    Record.metadata.create_all(db_engine)
    assert migrated == _schema(db_engine)


def test_up_down_and_up_again_leaves_the_same_tables(db_engine: Engine) -> None:
    _move(db_engine, "head")
    first = _schema(db_engine)
    assert "jobs" in first
    _move(db_engine, "base")
    assert _schema(db_engine) == {}
    _move(db_engine, "head")
    assert _schema(db_engine) == first


@pytest.mark.usefixtures("jobs_before_pauses")
class TestJobsOfEarlierRevisions:
    """A running job with an event, and one that has ended, from before there were pauses."""

    @pytest.fixture
    def jobs_before_pauses(self, db_engine: Engine) -> None:
        _move(db_engine, "0001")
        with db_engine.begin() as connection:
            for job_id, status in (("ftjob-goes-on", "running"), ("ftjob-ended", "failed")):
                connection.execute(text(_OLD_JOB), {"id": job_id, "status": status})
            connection.execute(
                text("INSERT INTO events VALUES ('ftevent-1', 'ftjob-goes-on', 1, 'info', 'message', 'm', NULL, 1)")
            )

    def test_stay_as_they_are(self, empty_url: str, db_engine: Engine) -> None:
        migrate.upgrade(empty_url)
        with db_engine.connect() as connection:
            found = connection.execute(text("SELECT id, status, pause_requested_at FROM jobs ORDER BY id DESC")).all()
            assert found == [("ftjob-goes-on", "running", None), ("ftjob-ended", "failed", None)]
            assert connection.scalar(text("SELECT job_id FROM events")) == "ftjob-goes-on"

    def test_are_kept_from_change_once_ended_and_from_deletion(self, empty_url: str) -> None:
        migrate.upgrade(empty_url)
        database = Database(empty_url)
        with pytest.raises(DBAPIError, match="has ended"), database.write() as session:
            session.execute(text("UPDATE jobs SET caller = 'x' WHERE id = 'ftjob-ended'"))
        with pytest.raises(IntegrityError), database.write() as session:
            session.execute(text("DELETE FROM jobs WHERE id = 'ftjob-goes-on'"))
        database.dispose()

    def test_can_be_paused_and_wait_again_in_a_version_without_pauses(self, empty_url: str, db_engine: Engine) -> None:
        migrate.upgrade(empty_url)
        with db_engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET status = 'paused' WHERE id = 'ftjob-goes-on'"))
        apart = create_db_engine(empty_url)
        _move(migrating(apart), "0001", command.downgrade)
        apart.dispose()
        with db_engine.connect() as connection:
            assert connection.scalar(text("SELECT status FROM jobs WHERE id = 'ftjob-goes-on'")) == "queued"


def test_what_is_no_training_goes_where_a_version_knows_no_other_kind(empty_url: str, db_engine: Engine) -> None:
    migrate.upgrade(empty_url)
    with db_engine.begin() as connection:
        for job_id in ("ftjob-1", "eval-1", "import-1", "export-1"):
            connection.execute(text(_OLD_JOB), {"id": job_id, "status": "queued"})
        connection.execute(text("UPDATE jobs SET kind = 'evaluation' WHERE id LIKE 'eval-%'"))
        connection.execute(text("UPDATE jobs SET kind = 'import' WHERE id LIKE 'import-%'"))
        connection.execute(text("UPDATE jobs SET kind = 'export' WHERE id LIKE 'export-%'"))
        connection.execute(
            text("INSERT INTO export_files VALUES ('export-1', 'a.gguf', :sha256, 1)"), {"sha256": "c" * 64}
        )
        assert "c" * 64 in connection.scalars(select(BLOB_REFERENCES.c.sha256)).all()
        connection.execute(
            text(
                "INSERT INTO adapters (id, job_id, token, name, base_model, adapter_sha256, bytes, state, created_at) "
                "VALUES ('adapter-1', 'import-1', 0, 'ft:x', 'tiny', :sha256, 1, 'deleted', 1)"
            ),
            {"sha256": "b" * 64},
        )
        connection.execute(text("INSERT INTO job_adapters VALUES ('eval-1', :sha256)"), {"sha256": "a" * 64})
        connection.execute(text("INSERT INTO events VALUES ('e', 'eval-1', 1, 'info', 'message', 'm', NULL, 1)"))
        referenced = select(MANIFEST_REFERENCES.c.sha256)
        assert connection.scalars(referenced).all() == ["a" * 64]
    apart = create_db_engine(empty_url)
    _move(migrating(apart), "0005", command.downgrade)
    apart.dispose()
    with db_engine.connect() as connection:
        assert connection.scalars(text("SELECT id FROM jobs")).all() == ["ftjob-1"]
        assert connection.scalars(referenced).all() == []


class TestStoredBytesOfEarlierRevisions:
    """Two files of one content, a model, and a job that goes on from it, from before bytes had rows."""

    @pytest.fixture
    def before(self, db_engine: Engine) -> None:
        _move(db_engine, "0002")
        with db_engine.begin() as connection:
            for job_id, status in (("ftjob-goes-on", "running"), ("ftjob-ended", "failed")):
                connection.execute(text(_OLD_JOB), {"id": job_id, "status": status})
            spec = '{"continue_from": {"name": "ft:x", "adapter_sha256": "%s"}}' % ("a" * 64)
            connection.execute(text("UPDATE jobs SET spec = :spec WHERE id = 'ftjob-goes-on'"), {"spec": spec})
            for file_id in ("file-1", "file-2"):
                connection.execute(
                    text(
                        "INSERT INTO files (id, caller, filename, purpose, bytes, sha256, status, file_type, examples, "
                        "created_at) VALUES (:id, 'c', 'f', 'fine-tune', 7, :sha256, 'processed', 'jsonl', 1, 1)"
                    ),
                    {"id": file_id, "sha256": "f" * 64},
                )
            connection.execute(
                text(
                    "INSERT INTO adapters (id, job_id, token, name, base_model, adapter_sha256, bytes, state, "
                    "created_at) VALUES ('adapter-1', 'ftjob-ended', 1, 'ft:x', 'tiny', :sha256, 9, 'deleted', 1)"
                ),
                {"sha256": "a" * 64},
            )

    def test_have_rows_and_what_refers_to_them(self, empty_url: str, db_engine: Engine, before: None) -> None:
        migrate.upgrade(empty_url)
        with db_engine.connect() as connection:
            rows = connection.execute(text("SELECT sha256, bytes, state FROM blobs ORDER BY sha256")).all()
            assert rows == [("a" * 64, None, "live"), ("f" * 64, 7, "live")]
            young = text("SELECT count(*) FROM blobs WHERE touched_at > 1700000000")
            assert connection.scalar(young) == 2  # the grace begins with the migration
            referenced = connection.scalars(text("SELECT DISTINCT sha256 FROM blob_references ORDER BY sha256")).all()
            assert referenced == ["a" * 64, "f" * 64]  # the model was deleted, but the job goes on from it


def test_plans_of_earlier_revisions_know_as_many_different_prompts_as_rows(empty_url: str, db_engine: Engine) -> None:
    _move(db_engine, "0011")
    counted = {"earlier": {}, "later": {"different_rows": 7}}
    with db_engine.begin() as connection:
        for number, count in counted.items():
            connection.execute(
                text(
                    "INSERT INTO experiments (id, caller, status, requested, request_sha256, plan, version, "
                    "created_at) VALUES (:id, 'c', 'running', '{}', 'd', :plan, 0, 1)"
                ),
                {"id": f"exp-{number}", "plan": json.dumps({"rows": {"judge": 9}} | count)},
            )
    migrate.upgrade(empty_url)
    with db_engine.begin() as connection:
        plans = connection.scalars(select(ExperimentRecord.plan).order_by(ExperimentRecord.id)).all()
        assert [plan["different_rows"] for plan in plans] == [9, 7]
    _move(db_engine, "0011", command.downgrade)
    with db_engine.begin() as connection:
        plans = connection.scalars(select(ExperimentRecord.plan).order_by(ExperimentRecord.id)).all()
        assert list(plans) == [{"rows": {"judge": 9}}] * 2


def test_models_of_earlier_revisions_get_versions_in_the_order_of_their_publication(
    empty_url: str, db_engine: Engine
) -> None:
    _move(db_engine, "0008")
    models = [("1", "bot", "deleted"), ("2", None, "live"), ("3", "other", "live"), ("4", "bot", "live")]
    with db_engine.begin() as connection:
        for number, suffix, state in models:
            connection.execute(text(_OLD_JOB), {"id": f"ftjob-{number}", "status": "running"})
            connection.execute(
                text("UPDATE jobs SET suffix = :suffix WHERE id = :id"), {"id": f"ftjob-{number}", "suffix": suffix}
            )
            connection.execute(
                text(
                    "INSERT INTO adapters (id, job_id, token, name, base_model, adapter_sha256, bytes, state, "
                    "created_at) VALUES (:id, :job_id, 1, :name, 'tiny', :sha256, 9, :state, 1)"
                ),
                {
                    "id": f"adapter-{number}",
                    "job_id": f"ftjob-{number}",
                    "name": f"ft:tiny:local:{suffix or ''}:{number}",
                    "sha256": number * 64,
                    "state": state,
                },
            )
    migrate.upgrade(empty_url)
    with db_engine.begin() as connection:
        numbered = connection.execute(text("SELECT organization, suffix, version FROM adapters ORDER BY id")).all()
        assert numbered == [("local", "bot", 1), (None, None, None), ("local", "other", 1), ("local", "bot", 2)]
    database = Database(empty_url)
    with database.write() as session:
        assert next_version(session, "local", "bot") == 3
    database.dispose()


_OLD_JOB = """
    INSERT INTO jobs (id, caller, status, spec, requested, spec_sha256, request_sha256, training_file_id, base_model,
                      token, hb_seq, attempts, event_seq, created_at)
    VALUES (:id, 'someone', :status, '{}', '{}', '', '', 'file-x', 'tiny', 1, 1, 1, 1, 1)
"""


def test_upgrade_makes_the_schema_and_a_second_one_does_nothing(empty_url: str, db_engine: Engine) -> None:
    migrate.upgrade(empty_url)
    first = _schema(db_engine)
    migrate.upgrade(empty_url)
    assert _schema(db_engine) == first
    revisions.check_schema(empty_url)


def test_upgrades_at_the_same_time_wait_for_each_other(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate.upgrade, args=(empty_url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    revisions.check_schema(empty_url)


def test_a_failing_migration_leaves_nothing_behind(
    empty_url: str, db_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade_and_fail(config: Config, revision: str) -> None:
        real_upgrade(config, revision)
        raise RuntimeError("killed half-way")

    real_upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", upgrade_and_fail)
    with pytest.raises(RuntimeError, match="killed"):
        migrate.upgrade(empty_url)
    assert inspect(db_engine).get_table_names() == []


def test_a_database_that_is_behind_is_refused_with_the_remedy(empty_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="loramill migrate"):
        revisions.check_schema(empty_url)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(empty_url: str, db_engine: Engine) -> None:
    migrate.upgrade(empty_url)
    with db_engine.begin() as connection:
        connection.execute(text(f"UPDATE {revisions.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer"):
        revisions.check_schema(empty_url)
    with pytest.raises(SchemaMismatch, match="newer"):
        migrate.upgrade(empty_url)


def test_an_upgrade_that_waits_too_long_says_that_the_database_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK_WAIT_S", 0)
    url = f"sqlite:///{tmp_path / 'loramill.db'}"
    entered, leave = threading.Event(), threading.Event()

    def upgrade_slowly(config: Config, revision: str) -> None:
        entered.set()
        leave.wait(30)

    monkeypatch.setattr(command, "upgrade", upgrade_slowly)
    first = threading.Thread(target=migrate.upgrade, args=(url,))
    first.start()
    try:
        assert entered.wait(30)
        with pytest.raises(DatabaseUnavailable):
            migrate.upgrade(url)
    finally:
        leave.set()
        first.join()


def test_an_upgrade_waits_for_another_one_for_longer_than_for_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_BUSY_TIMEOUT_MS", 1)
    url = f"sqlite:///{tmp_path / 'loramill.db'}"
    entered, leave = threading.Event(), threading.Event()
    real_upgrade = command.upgrade

    def upgrade_slowly(config: Config, revision: str) -> None:
        if not entered.is_set():
            entered.set()
            leave.wait(30)
        real_upgrade(config, revision)

    monkeypatch.setattr(command, "upgrade", upgrade_slowly)
    first = threading.Thread(target=migrate.upgrade, args=(url,))
    first.start()
    assert entered.wait(30)
    letting_go = threading.Timer(0.5, leave.set)
    letting_go.start()
    migrate.upgrade(url)
    first.join()
    letting_go.join()
    revisions.check_schema(url)


def test_the_alembic_command_takes_the_database_from_the_settings(
    empty_url: str, db_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAMILL_DATABASE_URL", empty_url)
    command.upgrade(Config(ROOT / "alembic.ini"), "head")
    revisions.check_schema(empty_url)
    assert "jobs" in _schema(db_engine)


def test_the_alembic_command_that_fails_half_way_leaves_nothing_behind(
    empty_url: str, db_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("killed half-way")

    monkeypatch.setenv("LORAMILL_DATABASE_URL", empty_url)
    monkeypatch.setattr(op, "create_index", fail)  # the first tables come before the first index
    with pytest.raises(RuntimeError, match="killed"):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
    assert "files" not in inspect(db_engine).get_table_names()


def test_an_unreachable_server_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        revisions.check_schema(f"postgresql+psycopg://nobody@/nowhere?host={tmp_path}")


def test_the_revisions_known_without_alembic_are_the_ones_there_are() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    newest_first = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(newest_first)) == revisions.REVISIONS
