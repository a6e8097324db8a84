"""Models' cards over HTTP: of which models there are any, and which evaluation they show."""

import pytest
from starlette.testclient import TestClient

from core.evaluations.result import EvaluationResult, ModelResult
from core.evaluations.spec import JudgedModel
from core.jobs.attempt import AttemptEnd, StoredAdapter, StoredCheckpoint
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, JobSpec
from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.mean_score import MeanScore
from core.store import adapters, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from tests.app.conftest import BASE, ApiHarness
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.succeeded import NEW, succeed
from tests.harness.evaluation_specs import make_evaluation_spec

WORKER = claims.WorkerIdentity("w", "h", 1)


@pytest.fixture
def job_id(client: TestClient, harness: ApiHarness, file_id: str) -> str:
    """Id of the job that made ``ft:x``."""
    return succeed(client, harness, file_id, NEW)


def evaluate(harness: ApiHarness, job_id: str, mean: float, *others: str) -> str:
    """Have base model, ``ft:x`` and others evaluated, all with this mean; give the evaluation's id."""
    models = (BASE, "ft:x", *others)
    score = MeanScore(
        metric="exact_match",
        mean=mean,
        interval=Interval(low=mean / 2, high=mean * 2),
        rows=40,
        left_out=0,
        clusters=40,
    )
    result = EvaluationResult(
        rows=40,
        clusters=40,
        too_long=0,
        unchecked_models=(),
        main_metric="exact_match",
        models=tuple(ModelResult(model=name, scores=(score,), worst=(), best=()) for name in models),
        verdicts=(),
        changes=(),
        gates=(),
        memory=(),
        text="A verdict of all.",
    )
    with harness.database.write() as session:
        file = JobSpec.model_validate(jobs.get(session, job_id).spec).training_file
        judged = (
            JudgedModel(name=BASE),
            JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256="b" * 64)),
        )
        spec = make_evaluation_spec(file, models=judged)
        made = jobs.create(session, NewJob("anonymous", spec, {}, "0" * 64), 1)
        claimed = claims.claim(session, WORKER, (BASE,), 2, kind=JobKind.EVALUATION)
        assert claimed is not None
        leases.conclude(
            session,
            leases.Lease(made.id, claimed.token),
            JobEvent("done"),
            result.model_dump(mode="json"),
            AttemptEnd(),
            3,
        )
        return made.id


def test_a_card_is_markdown_made_from_the_manifest(client: TestClient, job_id: str) -> None:
    answer = client.get("/v1/models/ft:x/card")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert "# ft:x\n" in answer.text
    assert "9 tokens." in answer.text
    assert f"| job | {job_id} |" in answer.text
    assert "No evaluation of this model is recorded." in answer.text


def test_the_newest_evaluation_of_the_model_is_shown(client: TestClient, harness: ApiHarness, job_id: str) -> None:
    evaluate(harness, job_id, 0.25)
    newest = evaluate(harness, job_id, 0.5)
    card = client.get("/v1/models/ft:x/card").text
    assert r"| ft:x | exact\_match | 0.500 (0.250 to 1.000) |" in card
    assert "A verdict of all." in card
    assert f"Evaluation {newest}, 40 rows" in card
    assert "0.250 (" not in card


def test_of_other_models_in_the_evaluation_nothing_is_said(
    client: TestClient, harness: ApiHarness, job_id: str
) -> None:
    evaluate(harness, job_id, 0.5, "ft:another")
    card = client.get("/v1/models/ft:x/card").text
    assert "ft:another" not in card
    assert "A verdict of all." not in card
    assert r"| ft:x | exact\_match |" in card


def test_a_checkpoint_has_a_card_of_its_own(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    with harness.database.write() as session:
        assert claims.claim(session, WORKER, (BASE,), 10) is not None
        stored = StoredCheckpoint(5, "ft:x:ckpt-step-5", StoredAdapter("a" * 64, 10, ()), {})
        adapters.add_checkpoint(session, leases.Lease(job_id, 1), stored, 12)
    card = client.get("/v1/models/ft:x:ckpt-step-5/card").text
    assert "A checkpoint after step 5" in card


@pytest.mark.parametrize("name", [BASE, "ft:none", "a/b"])
def test_what_no_job_made_has_none(client: TestClient, name: str) -> None:
    answer = client.get(f"/v1/models/{name}/card")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_deleted_model_has_none(client: TestClient, job_id: str) -> None:
    assert client.delete("/v1/models/ft:x").status_code == 200
    assert client.get("/v1/models/ft:x/card").status_code == 404
