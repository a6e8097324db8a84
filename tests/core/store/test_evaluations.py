"""Evaluations in the store: a line of their own, rows that are written once, adapters that stay."""

import pytest
from sqlalchemy import text

from core.errors import EvaluationNotFound, FileInUse, InvalidParameter, JobNotFound
from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import ScoredRow
from core.evaluations.spec import JudgedModel
from core.jobs.attempt import AttemptEnd
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, FileRef
from core.jobs.status import JobStatus
from core.store import evaluations, files, jobs
from core.store.db import Database
from core.store.jobs import NewJob
from core.store.queue import claims, control, leases, waiting_line
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.store.tables import FileRecord, JobRecord
from tests.core.store.conftest import MakeFile, MakeJob
from tests.harness.evaluation_specs import make_evaluation_spec

WORKER = WorkerIdentity("owner", "host", 1)
ROW = EvaluationRow(1, "0" * 16, "p", "r", (1,), (2,), (True,))


def make_evaluation(database: Database, file: FileRecord, *models: JudgedModel) -> JobRecord:
    ref = FileRef(id=file.id, sha256=file.sha256, examples=2, file_type="jsonl")
    spec = make_evaluation_spec(ref, models=models or (JudgedModel(name="tiny"),))
    with database.write() as session:
        return jobs.create(session, NewJob("someone", spec, {}, "0" * 64), 100)


def claim(database: Database, kind: JobKind) -> JobRecord | None:
    with database.write() as session:
        return claims.claim(session, WORKER, ("tiny",), 200, kind=kind)


def scored(row: int, score: float | None = 1.0, model_index: int = 0, answer: str = "a") -> ScoredRow:
    return ScoredRow(
        model_index=model_index, row=row, answer=answer, stopped=True, tokens=3, scores={"exact_match": score}
    )


class TestLines:
    def test_of_the_kinds_are_apart(self, database: Database, make_job: MakeJob, make_file: MakeFile) -> None:
        training, evaluation = make_job(), make_evaluation(database, make_file())
        assert evaluation.id.startswith("eval-")
        with database.read() as session:
            assert waiting_line.places(session, [evaluation]) == {evaluation.id: 1}
            assert waiting_line.places(session, [training]) == {training.id: 1}
            assert waiting_line.sum_waiting(session).jobs == 1
            assert [job.id for job in jobs.list_page(session, after=None, limit=9)[0]] == [training.id]
            listed, _ = jobs.list_page(session, after=None, limit=9, kind=JobKind.EVALUATION)
            assert [job.id for job in listed] == [evaluation.id]
        claimed = claim(database, JobKind.FINE_TUNING)
        assert claimed is not None
        assert claimed.id == training.id
        assert claim(database, JobKind.FINE_TUNING) is None
        judged = claim(database, JobKind.EVALUATION)
        assert judged is not None
        assert judged.id == evaluation.id

    def test_do_not_find_each_others_jobs(self, database: Database, make_job: MakeJob, make_file: MakeFile) -> None:
        training, evaluation = make_job(), make_evaluation(database, make_file())
        with database.write() as session:
            with pytest.raises(JobNotFound):
                jobs.get(session, evaluation.id)
            with pytest.raises(EvaluationNotFound):
                jobs.get(session, training.id, JobKind.EVALUATION)
            with pytest.raises(JobNotFound):
                control.cancel(session, evaluation.id, 200)
            with pytest.raises(EvaluationNotFound):
                control.cancel(session, training.id, 200, JobKind.EVALUATION)

    def test_a_waiting_one_is_cancelled_at_once(self, database: Database, make_file: MakeFile) -> None:
        evaluation = make_evaluation(database, make_file())
        with database.write() as session:
            assert control.cancel(session, evaluation.id, 200, JobKind.EVALUATION).status is JobStatus.CANCELLED


def test_the_file_that_is_judged_cannot_be_deleted_meanwhile(database: Database, make_file: MakeFile) -> None:
    file = make_file()
    make_evaluation(database, file)
    with pytest.raises(FileInUse), database.write() as session:
        files.delete(session, file.id)


def test_a_model_that_was_deleted_meanwhile_is_named_by_its_place(database: Database, make_file: MakeFile) -> None:
    gone = JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256="b" * 64))
    with pytest.raises(InvalidParameter, match=r"models\[1\]: ft:x was deleted meanwhile"):
        make_evaluation(database, make_file(), JudgedModel(name="tiny"), gone)


class TestRows:
    @pytest.fixture
    def lease(self, database: Database, make_file: MakeFile) -> Lease:
        job = make_evaluation(database, make_file(), JudgedModel(name="tiny"), JudgedModel(name="other"))
        claimed = claim(database, JobKind.EVALUATION)
        assert claimed is not None
        with database.write() as session:
            evaluations.add_examples(session, job.id, {0: ROW, 1: ROW})
        return Lease(job.id, claimed.token)

    def test_are_written_once_however_often_they_come(self, database: Database, lease: Lease) -> None:
        with database.write() as session:
            evaluations.add_scored(session, lease.job_id, [scored(0)])
        with database.write() as session:
            evaluations.add_examples(session, lease.job_id, {0: ROW, 1: ROW})
            evaluations.add_scored(session, lease.job_id, [scored(0, 0.0), scored(1, None), scored(1, model_index=1)])
        with database.read() as session:
            assert evaluations.list_scored(session, lease.job_id) == {(0, 0), (0, 1), (1, 1)}
            first, second = evaluations.list_scores(session, lease.job_id, ["tiny", "other"], range(2))
        assert [row.scores for row in first.rows] == [{"exact_match": 1.0}, {"exact_match": None}]
        assert [(row.scores, row.tokens) for row in second.rows] == [({}, 0), ({"exact_match": 1.0}, 3)]

    def test_are_listed_in_the_order_that_is_asked_for(self, database: Database, lease: Lease) -> None:
        with database.write() as session:
            evaluations.add_scored(session, lease.job_id, [scored(0), scored(1)])
        with database.read() as session:
            rows = evaluations.list_answered(session, lease.job_id, [1, 7, 0], 2)
        assert [row.row for row in rows] == [1, 0]
        assert [answer is None for answer in rows[0].answers] == [False, True]

    def test_an_answer_with_a_nul_is_kept_as_far_as_it_can_be(self, database: Database, lease: Lease) -> None:
        with database.write() as session:
            evaluations.add_scored(session, lease.job_id, [scored(0, answer="a\0b")])
        with database.read() as session:
            [row] = evaluations.list_answered(session, lease.job_id, [0], 1)
        assert row.answers[0] is not None
        assert row.answers[0].answer == "a\ufffdb"

    def test_an_end_tells_the_result(self, database: Database, lease: Lease) -> None:
        with database.write() as session:
            leases.conclude(session, lease, JobEvent("done"), {"rows": 2}, AttemptEnd(), 400)
        with database.read() as session:
            job = jobs.get(session, lease.job_id, JobKind.EVALUATION)
            assert (job.status, job.result, job.finished_at) == (JobStatus.SUCCEEDED, {"rows": 2}, 400)
            assert session.scalar(text("SELECT outcome FROM attempts")) == "succeeded"
