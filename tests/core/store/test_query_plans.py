"""That no question reads a whole table: SQLite tells for each statement how it would find its rows."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from core.errors import ModelNotFound
from core.jobs.kind import JobKind
from core.store import adapters, cards, evaluations, events, exports, files, jobs, manifests
from core.store.adapters import ServedAdapter
from core.store.aliases import records as aliases
from core.store.aliases.answers import list_counts
from core.store.aliases.records import AliasState, Why
from core.store.db import Database, Session
from core.store.experiments import records
from core.store.experiments.advancing import list_outcomes
from core.store.queue import claims, control, leases, waiting_line
from core.store.references.owners import owners_of
from core.store.references.rows import _is_referred_to
from core.store.retention import expiry, forgotten, job_deletion
from core.store.tables import Record
from tests.core.store.conftest import MakeFile, MakeJob

WORKER = claims.WorkerIdentity("owner", "host", 1)
PAIRS = {"team": "a", "run": "1"}

QUESTIONS: dict[str, Callable[[Session], object]] = {
    "jobs": lambda s: jobs.list_page(s, after=None, limit=20),
    "older jobs": lambda s: jobs.list_page(s, after="ftjob-z", limit=20),
    "jobs by a pair": lambda s: jobs.list_page(s, after=None, limit=20, metadata={"team": "a"}),
    "older jobs by pairs": lambda s: jobs.list_page(s, after="ftjob-z", limit=20, metadata=PAIRS),
    "places of a page": lambda s: waiting_line.places(s, jobs.list_page(s, after=None, limit=20)[0]),
    "work waiting": waiting_line.sum_waiting,
    "jobs running": waiting_line.list_running,
    "leases running": leases.list_running,
    "jobs to notify of": lambda s: jobs.list_to_notify(s, before=1000, limit=8),
    "jobs succeeded": lambda s: jobs.list_succeeded(s, "tiny", limit=5),
    "a duplicate": lambda s: jobs.find_recent_duplicate(s, "someone", "0" * 64, since=0),
    "evaluations": lambda s: jobs.list_page(s, after="eval-z", limit=20, kind=JobKind.EVALUATION),
    "rows scored": lambda s: evaluations.list_scored(s, "eval-z"),
    "scores": lambda s: evaluations.list_scores(s, "eval-z", ["tiny"], range(9)),
    "rows answered": lambda s: evaluations.list_answered(s, "eval-z", [1, 2], 2),
    "exports": lambda s: jobs.list_page(s, after="export-z", limit=20, kind=JobKind.EXPORT),
    "files of exports": lambda s: exports.list_files(s, ["export-y", "export-z"]),
    "who refers to a blob": lambda s: _is_referred_to(s, "a" * 64),
    "who needs a blob": lambda s: owners_of(s, ["a" * 64]),
    "keys too old": lambda s: expiry._due_keys(s, 1),
    "results too old": lambda s: expiry._due_results(s, 1),
    "events too old": lambda s: expiry._due_events(s, "ftjob-z"),
    "attempts too old": lambda s: expiry._due_attempts(s, "ftjob-z"),
    "checkpoints too old": lambda s: expiry._due_checkpoints(s, "ftjob-z"),
    "who needs a checkpoint": lambda s: expiry._is_needed(s, "ftjob-z", "ft:x", "a" * 64),
    "jobs that are gone": lambda s: forgotten.list_deleted(s, ["ftjob-z"]),
    "attempts to keep": lambda s: forgotten.find_kept_attempts(s, ["ftjob-z"], 1),
    "events": lambda s: events.list_page(s, jobs.list_page(s, after=None, limit=1)[0][0].id, after=None, limit=20),
    "checkpoints": lambda s: adapters.list_checkpoints(s, "ftjob-z", None, 20),
    "files": lambda s: files.list_page(s, after=None, limit=20),
    "files of a purpose": lambda s: files.list_page(s, after="file-z", limit=20, purpose="fine-tune"),
    "models": lambda s: adapters.list_page(s, after=None, limit=20),
    "a model": lambda s: adapters.find_served(s, "ft:x"),
    "experiments": lambda s: records.list_page(s, after=None, limit=20),
    "older experiments": lambda s: records.list_page(s, after="exp-z", limit=20),
    "experiments running": records.list_running,
    "an experiment's runs": lambda s: list_outcomes(s, "exp-z"),
    "an experiment's key": lambda s: records.find_idempotent(s, "someone", "k"),
    "a model's training": lambda s: adapters.find_trained(s, "ft:x"),
    "a job's manifest": lambda s: manifests.read(s, jobs.list_page(s, after=None, limit=1)[0][0].id),
    "a model's newest evaluation": lambda s: cards.find_evaluation(s, "ft:x", ServedAdapter("tiny", "a" * 64)),
    "a file of the same bytes": lambda s: files.find_same(s, "a" * 64, "jsonl"),
    "versions": lambda s: adapters.list_versions(s, ["ft:x", "ft:y"]),
    "an alias": lambda s: aliases.find(s, "bot@prod"),
    "aliases": lambda s: aliases.list_page(s, after="a", limit=20),
    "an alias' moves": lambda s: aliases.list_moves(s, "bot@prod", after=9, limit=20),
    "what was answered": lambda s: list_counts(s, "bot@prod", [1, 2]),
    "who stands for a model": lambda s: aliases.find_standing_for(s, ["ft:x", "ft:y"]),
}


def _delete_no_model(session: Session) -> None:
    with contextlib.suppress(ModelNotFound):
        adapters.delete(session, "ft:x")


def _delete_a_job(session: Session) -> None:
    [job, *_], _ = jobs.list_page(session, after=None, limit=1)
    control.cancel(session, job.id, 200)
    job_deletion.delete(session, job.id)


CHANGES: dict[str, Callable[[Session], object]] = {
    "an empty claim": lambda s: claims.claim(s, WORKER, ("other",), 200),
    "an empty claim for many": lambda s: claims.claim(s, WORKER, ("other", "third"), 200),
    "a claim of an evaluation": lambda s: claims.claim(s, WORKER, ("tiny",), 200, kind=JobKind.EVALUATION),
    "a claim of an export": lambda s: claims.claim(s, WORKER, ("tiny",), 200, kind=JobKind.EXPORT),
    "what an export made": lambda s: exports.drop_files(s, "export-z"),
    "a claim": lambda s: claims.claim(s, WORKER, ("tiny",), 200),
    "a claim for many": lambda s: claims.claim(s, WORKER, ("other", "tiny"), 200),
    "a claim of others beside": lambda s: claims.claim_beside(
        s, WORKER, jobs.list_page(s, after=None, limit=1)[0][0], 200, at_most=4, fit=lambda _: True
    ),
    "a cancellation": lambda s: control.cancel(s, jobs.list_page(s, after=None, limit=1)[0][0].id, 200),
    "a deletion of a model": _delete_no_model,
    "a deletion of a job": _delete_a_job,
    "a move of an alias": lambda s: aliases.move(s, "bot@prod", AliasState(model="ft:x"), Why("someone", None), 1),
    "a deletion of a file": lambda s: files.delete(s, files.list_page(s, after=None, limit=1)[0][0].id),
}


@pytest.fixture
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect what is executed."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def _plan(session: Session, statement: str, parameters: Any) -> list[str]:
    explained = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [row[3] for row in explained]


def _reads_all(step: str) -> bool:
    """Tell whether a step reads a table from end to end, or sorts what it read, rather than follow an index."""
    if step.startswith("USE TEMP B-TREE"):
        return True
    scanned = re.fullmatch(r"SCAN (\w+?)(_\d+)?", step)
    return scanned is not None and scanned[1] in Record.metadata.tables


@pytest.mark.parametrize("name", [*QUESTIONS, *CHANGES])
def test_is_answered_from_an_index(
    database: Database, make_file: MakeFile, make_job: MakeJob, statements: list[tuple[str, Any]], name: str
) -> None:
    make_job(), make_job(metadata=PAIRS), make_job()
    make_file()
    open_session = database.write if name in CHANGES else database.read
    with open_session() as session:
        if session.get_bind().dialect.name != "sqlite":
            pytest.skip("PostgreSQL plans by the size of tables; with few rows it reads them whole")
        statements.clear()
        (QUESTIONS | CHANGES)[name](session)
        asked = [
            (statement, values) for statement, values in statements if re.match("SELECT|UPDATE|DELETE|WITH", statement)
        ]
        assert asked
        plans = {statement: _plan(session, statement, values) for statement, values in asked}
    assert [(statement, step) for statement, steps in plans.items() for step in steps if _reads_all(step)] == []


def test_a_question_without_an_index_is_noticed(database: Database, make_job: MakeJob) -> None:
    with database.read() as session:
        if session.get_bind().dialect.name != "sqlite":
            pytest.skip("about SQLite's words")
        assert any(map(_reads_all, _plan(session, "SELECT id FROM jobs WHERE fine_tuned_model = 'x'", ())))
        assert any(map(_reads_all, _plan(session, "SELECT id FROM jobs WHERE status = 'x' ORDER BY owner", ())))
        assert session.scalar(text("SELECT 1")) == 1
