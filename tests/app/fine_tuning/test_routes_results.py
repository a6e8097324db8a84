"""Jobs over HTTP that have run: pages of them, their events and checkpoints, and jobs that go on from their models."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.jobs.attempt import StoredAdapter, StoredCheckpoint
from core.jobs.events import EventType, JobEvent
from core.jobs.spec import AdapterRef, JobSpec
from core.store import adapters, events, jobs
from core.store.queue import claims, leases
from tests.app.conftest import BASE, ApiHarness
from tests.app.fine_tuning.created import create
from tests.harness.finished_job import finish


def test_jobs_are_paged_newest_first_and_filtered_by_metadata(client: TestClient, file_id: str) -> None:
    ids = [create(client, file_id, metadata={"n": str(n), "all": "yes"}).json()["id"] for n in range(3)]
    first = client.get("/v1/fine_tuning/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = client.get("/v1/fine_tuning/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    both = client.get("/v1/fine_tuning/jobs", params={"metadata[n]": "1", "metadata[all]": "yes"}).json()
    assert [job["id"] for job in both["data"]] == [ids[1]]
    assert client.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).status_code == 400


@pytest.fixture
def finished_job(client: TestClient, harness: ApiHarness, file_id: str) -> str:
    """Id of a job that a worker has run, with one checkpoint and a published adapter."""
    job_id = str(create(client, file_id).json()["id"])
    with harness.database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 10)
        assert job is not None
        leases.heartbeat(session, leases.Lease(job_id, job.token), {"step": 5, "eta_s": 30.0})
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["estimated_finish"] is not None
    with harness.database.write() as session:
        data = {"step": 5, "train_loss": 0.5}
        events.append(session, job_id, JobEvent("Step 5", type=EventType.METRICS, data=data), 11)
        adapters.add_checkpoint(
            session,
            leases.Lease(job_id, 1),
            StoredCheckpoint(5, "ft:x:ckpt-step-5", StoredAdapter("a" * 64, 10, ()), data),
            12,
        )
        finish(session, job_id, now=13)
    return job_id


@pytest.mark.parametrize(
    ("pairs", "param"),
    [
        ({f"metadata[{n}]": "1" for n in range(17)}, "metadata"),
        ({"metadata[k]": "v" * 513}, "metadata.k"),
        ({f"metadata[{'k' * 65}]": "1"}, f"metadata.{'k' * 65}"),
    ],
    ids=["many", "long-value", "long-key"],
)
def test_a_filter_that_no_job_can_have_is_refused(client: TestClient, pairs: dict[str, str], param: str) -> None:
    answer = client.get("/v1/fine_tuning/jobs", params=pairs)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_filter_is_described_as_it_is_written(client: TestClient) -> None:
    parameters = client.get("/openapi.json").json()["paths"]["/v1/fine_tuning/jobs"]["get"]["parameters"]
    [described] = [parameter for parameter in parameters if parameter["name"] == "metadata"]
    assert (described["in"], described["style"], described["schema"]["maxProperties"]) == ("query", "deepObject", 16)


def test_a_finished_job_tells_its_model_and_what_it_was_trained_on(client: TestClient, finished_job: str) -> None:
    job = client.get(f"/v1/fine_tuning/jobs/{finished_job}").json()
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", "ft:x")
    assert (job["trained_tokens"], job["trained_on"], job["finished_at"]) == (9, "9 tokens", 13)
    assert job["estimated_finish"] is None


def test_events_come_newest_first_in_pages(client: TestClient, finished_job: str) -> None:
    url = f"/v1/fine_tuning/jobs/{finished_job}/events"
    first = client.get(url, params={"limit": 1}).json()
    assert first["has_more"] is True
    rest = client.get(url, params={"after": first["last_id"]}).json()
    assert rest["has_more"] is False
    (event,) = rest["data"]
    assert event == {
        "id": event["id"],
        "object": "fine_tuning.job.event",
        "created_at": 11,
        "level": "info",
        "message": "Step 5",
        "type": "metrics",
        "data": {"step": 5, "train_loss": 0.5},
    }


def test_checkpoints_have_the_protocols_shape(client: TestClient, finished_job: str) -> None:
    page = client.get(f"/v1/fine_tuning/jobs/{finished_job}/checkpoints").json()
    (checkpoint,) = page["data"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (checkpoint["id"], checkpoint["id"], False)
    assert checkpoint == {
        "id": checkpoint["id"],
        "object": "fine_tuning.job.checkpoint",
        "created_at": 12,
        "fine_tuning_job_id": finished_job,
        "fine_tuned_model_checkpoint": "ft:x:ckpt-step-5",
        "step_number": 5,
        "metrics": {"step": 5, "train_loss": 0.5},
    }


def test_a_checkpoint_is_described_by_its_models_name(client: TestClient, finished_job: str) -> None:
    told = client.get("/v1/models/ft:x:ckpt-step-5").json()
    assert (told["id"], told["parent"], told["created"]) == ("ft:x:ckpt-step-5", BASE, 12)
    assert (told["rendering"], told["suffix"], told["version"], told["model"]) == ("verified", None, None, None)
    model = client.get(f"/v1/fine_tuning/jobs/{finished_job}").json()["fine_tuned_model"]
    client.delete(f"/v1/models/{model}")
    assert client.get("/v1/models/ft:x:ckpt-step-5").status_code == 404


@pytest.mark.parametrize("path", ["", "/events", "/checkpoints"])
def test_a_missing_job_is_404(client: TestClient, path: str) -> None:
    response = client.get(f"/v1/fine_tuning/jobs/ftjob-x{path}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "job_not_found"


class TestContinuing:
    """A new job that goes on from what a finished one made."""

    @pytest.fixture
    def earlier(self, client: TestClient, harness: ApiHarness, file_id: str) -> dict[str, Any]:
        """A job of rank 8 that has succeeded, with a checkpoint."""
        lora = {"rank": 8, "alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"], "dropout": 0.1}
        job_id = str(create(client, file_id, lora=lora).json()["id"])
        with harness.database.write() as session:
            assert claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 10) is not None
            adapters.add_checkpoint(
                session,
                leases.Lease(job_id, 1),
                StoredCheckpoint(5, "ft:x:ckpt-step-5", StoredAdapter("a" * 64, 10, ()), {}),
                12,
            )
            finish(session, job_id, now=13, result={"adapter_step": 5})
        job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        return job

    @pytest.mark.parametrize(("name", "sha256"), [("ft:x", "b" * 64), ("ft:x:ckpt-step-5", "a" * 64)])
    def test_it_takes_the_adapters_shape_and_names_it_by_content(
        self, client: TestClient, harness: ApiHarness, file_id: str, earlier: dict[str, Any], name: str, sha256: str
    ) -> None:
        job = create(client, file_id, continue_from=name).json()
        assert job["continue_from"] == name
        assert job["lora"] == earlier["lora"] | {"dropout": 0.0}
        with harness.database.read() as session:
            continued = JobSpec.model_validate(jobs.get(session, job["id"]).spec).continue_from
        assert continued == AdapterRef(name=name, adapter_sha256=sha256)

    def test_what_is_said_of_its_shape_must_agree(
        self, client: TestClient, file_id: str, earlier: dict[str, Any]
    ) -> None:
        same = {"rank": 8, "alpha": 4, "use_rslora": True, "use_dora": False, "target_modules": ["v_proj", "q_proj"]}
        assert create(client, file_id, continue_from="ft:x", lora=same).json()["lora"]["rank"] == 8
        assert create(client, file_id, continue_from="ft:x", lora={"alpha": None, "dropout": 0.5}).status_code == 200

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("rank", 16),
            ("alpha", 8),
            ("use_rslora", False),
            ("use_dora", True),
            ("target_modules", ["q_proj"]),
            ("target_modules", "all-linear"),
        ],
    )
    def test_a_contradiction_is_refused_by_its_field(
        self, client: TestClient, file_id: str, earlier: dict[str, Any], field: str, value: Any
    ) -> None:
        response = create(client, file_id, continue_from="ft:x", lora={field: value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == f"lora.{field}"
        assert "ft:x" in response.json()["error"]["message"]

    def test_a_deleted_model_cannot_be_gone_on_from(
        self, client: TestClient, file_id: str, earlier: dict[str, Any]
    ) -> None:
        assert client.delete("/v1/models/ft:x").status_code == 200
        for name in ("ft:x", "ft:x:ckpt-step-5"):
            assert create(client, file_id, continue_from=name).json()["error"]["param"] == "continue_from"

    def test_a_job_tells_which_step_its_adapter_is_of(self, earlier: dict[str, Any]) -> None:
        assert earlier["adapter_step"] == 5
