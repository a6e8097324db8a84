"""Jobs made again and compared over HTTP; what a rerun comes to is its worker's, and tested there."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.base_models.registry import IMPORTED_FILE
from core.jobs.spec import JobSpec
from core.store import jobs
from tests.app.conftest import BASE, EXAMPLES, ApiHarness, upload
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.succeeded import NEW, RESULT, succeed

MODEL = "ft:tiny:local:mine:1"


@pytest.fixture
def job_id(client: TestClient, harness: ApiHarness, file_id: str) -> str:
    """Id of a job that has succeeded."""
    fields: dict[str, Any] = {"hyperparameters": {"n_epochs": 2}, "suffix": "mine", "metadata": {"k": "v"}}
    return succeed(client, harness, file_id, NEW, name=MODEL, **fields)


def rerun(client: TestClient, job_id: str, **headers: str) -> Any:
    return client.post(f"/v1/fine_tuning/jobs/{job_id}/rerun", headers=headers)


def refusal(client: TestClient, job_id: str) -> str:
    answer = rerun(client, job_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "rerun_impossible")
    assert answer.headers["x-should-retry"] == "false"
    return str(answer.json()["error"]["message"])


def spec_of(harness: ApiHarness, job_id: str) -> JobSpec:
    with harness.database.read() as session:
        return JobSpec.model_validate(jobs.get(session, job_id).spec)


def training_bytes(harness: ApiHarness, job_id: str) -> Path:
    sha256 = spec_of(harness, job_id).training_file.sha256
    [path] = [path for path in harness.stored_bytes() if path.name == sha256]
    return path


def test_a_rerun_is_the_same_job_with_a_name_of_its_own(client: TestClient, harness: ApiHarness, job_id: str) -> None:
    again = rerun(client, job_id).json()
    assert spec_of(harness, again["id"]) == spec_of(harness, job_id)
    assert (again["status"], again["user_provided_suffix"], again["metadata"]) == ("queued", None, None)
    assert again["rerun"] == {"of": job_id, "same_weights": None, "may_be_why": []}
    assert again["estimate"] is not None
    assert harness.notifier.notified[-1] == again["id"]
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["rerun"] is None


def test_its_manifest_names_the_job_and_has_the_origins_of_its_settings(client: TestClient, job_id: str) -> None:
    again = rerun(client, job_id).json()["id"]
    one, other = (client.get(f"/v1/fine_tuning/jobs/{each}/manifest").json() for each in (job_id, again))
    assert other["parents"]["rerun_of"] == job_id
    assert other["settings"] == one["settings"]
    assert other["settings"]["n_epochs"]["origin"] == "you"


def test_the_same_key_gives_the_same_rerun(client: TestClient, job_id: str) -> None:
    ids = [rerun(client, job_id, **{"Idempotency-Key": "k"}).json()["id"] for _ in range(2)]
    assert ids[0] == ids[1]
    assert rerun(client, job_id).json()["id"] != ids[0]


def test_fields_that_are_sent_are_refused(client: TestClient, job_id: str) -> None:
    refused = client.post(f"/v1/fine_tuning/jobs/{job_id}/rerun", json={"seed": 5})
    assert refused.status_code == 400
    assert "takes no body" in refused.json()["error"]["message"]
    assert client.post(f"/v1/fine_tuning/jobs/{job_id}/rerun", json={}).status_code == 200


def test_a_verdict_is_shown(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    why = [{"name": "torch", "this": "2.1", "other": "2.0"}]
    first = succeed(client, harness, file_id, NEW)
    again = rerun(client, first).json()["id"]
    with harness.database.write() as session:
        row = jobs.get(session, again)
        row.result = NEW | {"rerun": {"same_weights": False, "may_be_why": why, "unrecorded": False}}
    shown = client.get(f"/v1/fine_tuning/jobs/{again}").json()["rerun"]
    assert shown == {"of": first, "same_weights": False, "may_be_why": why}


class TestRefusals:
    """Something that decided the result is gone, or has become another."""

    def test_a_job_without_a_result(self, client: TestClient, file_id: str) -> None:
        assert "has not succeeded (queued)" in refusal(client, create(client, file_id).json()["id"])

    def test_no_such_job(self, client: TestClient) -> None:
        assert rerun(client, "ftjob-x").status_code == 404

    def test_a_deleted_file_until_its_bytes_are_uploaded_again(
        self, client: TestClient, harness: ApiHarness, job_id: str, file_id: str
    ) -> None:
        assert client.delete(f"/v1/files/{file_id}").status_code == 200
        assert f"its file {file_id} was deleted; upload the same bytes again" in refusal(client, job_id)
        upload(client, EXAMPLES + b'{"prompt": "p", "completion": " c"}\n')
        refusal(client, job_id)
        same = upload(client).json()["id"]
        assert rerun(client, job_id).json()["training_file"] == same

    def test_bytes_that_changed_on_disk(self, client: TestClient, harness: ApiHarness, job_id: str) -> None:
        path = training_bytes(harness, job_id)
        path.chmod(0o600)
        path.write_bytes(EXAMPLES.replace(b"p1", b"q1"))
        answer = rerun(client, job_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "blob_damaged")

    def test_bytes_that_are_gone(self, client: TestClient, harness: ApiHarness, job_id: str) -> None:
        training_bytes(harness, job_id).unlink()
        assert "are gone from the store" in refusal(client, job_id)

    def test_another_base_model(self, client: TestClient, harness: ApiHarness, job_id: str) -> None:
        imported = harness.settings.base_models_folder / BASE / IMPORTED_FILE
        imported.write_text(imported.read_text().replace("0" * 64, "1" * 64))
        assert "with the fingerprint 000000000000, and here that has 111111111111" in refusal(client, job_id)

    def test_a_base_model_that_is_gone(self, client: TestClient, harness: ApiHarness, job_id: str) -> None:
        (harness.settings.base_models_folder / BASE / IMPORTED_FILE).unlink()
        assert rerun(client, job_id).json()["error"]["code"] == "base_model_not_ready"

    def test_a_job_of_an_earlier_version_whose_model_is_gone(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        # the adapter that `succeed` makes up was never stored
        assert "an earlier version ran it" in refusal(client, succeed(client, harness, file_id, RESULT))

    def test_a_start_that_was_deleted(self, client: TestClient, harness: ApiHarness, file_id: str, job_id: str) -> None:
        later = succeed(client, harness, file_id, NEW, name="ft:y", continue_from=MODEL)
        client.delete(f"/v1/models/{MODEL}")
        assert f"{MODEL}, which it went on from, was deleted" in refusal(client, later)


class TestComparing:
    def test_jobs_are_told_apart(self, client: TestClient, harness: ApiHarness, file_id: str, job_id: str) -> None:
        other = create(client, file_id, lora={"rank": 4}, seed=1).json()["id"]
        found = client.get(f"/v1/fine_tuning/jobs/{other}/compare", params={"with": job_id}).json()
        assert (found["this"], found["other"]) == (other, job_id)
        settings = {one["name"]: (one["this"], one["other"]) for one in found["settings"]}
        assert settings["lora.rank"] == (4, 16)
        assert settings["n_epochs"] == (3, 2)
        assert {"name": "status", "this": "queued", "other": "succeeded"} in found["results"]
        assert found["base_model"][0]["name"] == "tokenizer_sha256"

    def test_a_job_does_not_differ_from_itself(self, client: TestClient, job_id: str) -> None:
        found = client.get(f"/v1/fine_tuning/jobs/{job_id}/compare", params={"with": job_id}).json()
        assert [found[part] for part in ("settings", "data", "base_model", "environment", "results")] == [[]] * 5

    def test_with_what_must_be_said_and_be_a_job(self, client: TestClient, job_id: str) -> None:
        url = f"/v1/fine_tuning/jobs/{job_id}/compare"
        assert client.get(url).json()["error"]["param"] == "with"
        assert client.get(url, params={"with": "ftjob-x"}).json()["error"]["code"] == "job_not_found"
