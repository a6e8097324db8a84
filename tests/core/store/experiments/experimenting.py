"""What tests of experiments in the database do: ask for one, end its jobs, score its models."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import ScoredRow
from core.evaluations.spec import EvaluationSpec
from core.experiments.plan import ExperimentPlan
from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredAdapter
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import FileRef
from core.store import evaluations, jobs
from core.store.db import Database
from core.store.experiments import records
from core.store.experiments.advancing import advance, list_outcomes
from core.store.experiments.records import NewExperiment
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.store.tables import ExperimentRecord, FileRecord, JobRecord
from tests.core.experiments.made_up import arm, evaluation, plan

WORKER = WorkerIdentity("owner", "host", 1)
ROWS = 120


def ref_of(file: FileRecord) -> FileRef:
    return FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type="jsonl")


def plan_on(file: FileRecord, **others: Any) -> ExperimentPlan:
    """Plan two arms and two seeds, all on one file."""
    judging = evaluation(file.id).model_copy(update={"file": ref_of(file), "base_model": "tiny"})
    fields: dict[str, Any] = {"base_model": "tiny", "training_file": ref_of(file), "validation_file": None}
    arms = tuple(arm(name, **fields) for name in ("a", "b"))
    known: dict[str, Any] = {"base_model": "tiny", "arms": arms, "seeds": (1, 2), "judging": judging}
    return plan(**known | others)


def create(database: Database, made: ExperimentPlan, *, key: str | None = None) -> ExperimentRecord:
    with database.write() as session:
        return records.create(session, NewExperiment("someone", {"question": "labels"}, "0" * 64, made, key), 100)


def get(database: Database, experiment_id: str) -> ExperimentRecord:
    with database.read() as session:
        return records.get(session, experiment_id)


def jobs_of(database: Database, experiment_id: str) -> list[JobRecord]:
    with database.read() as session:
        return [jobs.get(session, one.job_id) for one in list_outcomes(session, experiment_id)]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def end_runs(
    database: Database,
    *,
    fails: Callable[[JobRecord], bool] = lambda job: False,
    seconds: int = 50,
    parts: Callable[[JobRecord], tuple[str, ...]] = lambda job: (digest_of(job.id),),
) -> int:
    """Claim and end all trainings that wait, and say how many there were; ``parts`` gives an adapter's files."""
    ended = 0
    while (job := _claim(database, JobKind.FINE_TUNING)) is not None:
        lease, end = Lease(job.id, job.token), AttemptEnd(last_step=9)
        with database.write() as session:
            if fails(job):
                leases.fail(session, lease, JobError("out_of_memory", "no memory"), end, 200 + seconds)
            else:
                result = {"metrics": {"train_loss": 0.25, "full_valid_loss": 0.5}}
                adapter = StoredAdapter(digest_of(f"{job.id}'s manifest"), 10, parts(job))
                publication = Publication(adapter, f"ft:{job.id}", "completions", trained_tokens=5, result=result)
                leases.publish(session, lease, publication, end, 200 + seconds)
        ended += 1
    return ended


def end_evaluation(
    database: Database, score: Callable[[str, int], float] = lambda model, row: 0.5, *, error: str | None = None
) -> EvaluationSpec:
    """Claim and end the evaluation that waits; ``score`` gives the nats of a model's row."""
    job = _claim(database, JobKind.EVALUATION)
    assert job is not None
    spec, lease = EvaluationSpec.model_validate(job.spec), Lease(job.id, job.token)
    with database.write() as session:
        if error is not None:
            leases.fail(session, lease, JobError("engine_unavailable", error), AttemptEnd(), 300)
            return spec
        evaluations.add_examples(session, job.id, {number: _row(number) for number in range(ROWS)})
        for place, model in enumerate(spec.models):
            scored = [_scored(place, row, {"nats_per_token": score(model.name, row)}) for row in range(ROWS)]
            evaluations.add_scored(session, job.id, scored)
        leases.conclude(session, lease, JobEvent("done"), {}, AttemptEnd(), 300)
    return spec


def step(database: Database, experiment_id: str) -> ExperimentRecord:
    advance(database, experiment_id, 400)
    return get(database, experiment_id)


def _claim(database: Database, kind: JobKind) -> JobRecord | None:
    with database.write() as session:
        return claims.claim(session, WORKER, ("tiny",), 200, kind=kind)


def _row(number: int) -> EvaluationRow:
    return EvaluationRow(number + 1, f"{number:016x}", "p", "c", (1,), (2,), (True,))


def _scored(model: int, row: int, scores: Mapping[str, float]) -> ScoredRow:
    known = {"exact_match": None} | dict(scores)
    return ScoredRow(model_index=model, row=row, answer=None, stopped=None, tokens=3, scores=known)
