"""What a look at a whole database finds on each; flips within a file are `tests/app/cli/checks/test_deep_checks`'."""

from sqlalchemy import text

from core.store.db import Database
from core.store.integrity import attempted, check_integrity
from core.store.tables import JobRecord
from tests.core.store.conftest import MakeJob


def test_a_whole_database_has_no_problems_and_says_what_cannot_be_told(database: Database, make_job: MakeJob) -> None:
    make_job()
    found = check_integrity(database)
    assert found.problems == ()
    if database.dialect == "sqlite":
        assert "SQLite has no checksums" in found.limits
    else:
        assert "every row was read; its pages have" in found.limits


def test_rows_whose_job_is_gone_are_counted(database: Database, running: JobRecord) -> None:
    with database.write() as session:
        if database.dialect == "sqlite":
            session.execute(text("PRAGMA defer_foreign_keys=ON"))
            session.execute(text("CREATE TABLE kept AS SELECT * FROM attempts"))
            session.execute(text("DROP TABLE attempts"))
            session.execute(text("DELETE FROM jobs"))
            session.execute(text("ALTER TABLE kept RENAME TO attempts"))
        else:
            session.execute(text("SET LOCAL session_replication_role = replica"))  # which looks after no foreign key
            session.execute(text("DELETE FROM jobs"))
    assert check_integrity(database).problems == ("1 rows of attempts name a job_id that jobs does not have",)


def test_a_specification_without_its_digest_is_named(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    with database.write() as session:
        session.execute(text("UPDATE jobs SET spec_sha256 = :other"), {"other": "0" * 64})
    [problem] = check_integrity(database).problems
    assert f"the specification of job {job.id} has changed" in problem


def test_a_table_that_is_gone_is_a_problem_and_no_error(database: Database, url: str) -> None:
    with database.write() as session:
        session.execute(text("ALTER TABLE events RENAME TO vanished"))
    try:
        assert any("events" in problem for problem in check_integrity(database).problems)
    finally:
        with database.write() as session:
            session.execute(text("ALTER TABLE vanished RENAME TO events"))


def test_what_sqlite_says_in_damaged_text_is_told_and_not_raised() -> None:
    told = attempted(b"malformed: \xf3".decode)
    assert isinstance(told, str)
    assert told.startswith("a text in it is no UTF-8: ")
