"""Evaluations over HTTP as tests ask for them, and models that were trained on a file."""

from typing import Any

from starlette.testclient import TestClient

from core.evaluations.spec import EvaluationSpec
from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.kind import JobKind
from core.jobs.spec import FileRef
from core.store import files, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from tests.app.conftest import BASE, ApiHarness
from tests.harness.job_specs import make_job_spec

PATH = "/v1/evaluations"
TUNED = "ft:tiny:local::1"


def ask(client: TestClient, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return client.post(PATH, json={"models": [BASE]} | fields, headers=headers)


def refusal_of(client: TestClient, **fields: Any) -> tuple[int, str | None, str]:
    response = ask(client, **fields)
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


def refusal(client: TestClient, **fields: Any) -> tuple[int, str | None, str]:
    """Ask for what is to be refused; nothing may be queued of it."""
    told = refusal_of(client, **fields)
    assert client.get(PATH).json()["data"] == []
    return told


def train(harness: ApiHarness, file_id: str, name: str = TUNED, digest: str = "b" * 64, **spec: Any) -> str:
    """Put a model into the database that was trained on a file; give its job's id."""
    with harness.database.write() as session:
        file = files.get(session, file_id)
        ref = FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type)
        job = jobs.create(session, NewJob("someone", make_job_spec(ref, **spec), {}, "d" * 64), 1)
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), ("tiny",), 2)
        assert claimed is not None
        publication = Publication(StoredAdapter(digest, 1, ()), name, "", trained_tokens=1, result={})
        leases.publish(session, Lease(job.id, claimed.token), publication, AttemptEnd(), 3)
        return job.id


def spec_of(harness: ApiHarness, evaluation_id: str) -> EvaluationSpec:
    with harness.database.read() as session:
        return EvaluationSpec.model_validate(jobs.get(session, evaluation_id, JobKind.EVALUATION).spec)
