"""Jobs deleted over HTTP: what the answer says, what is gone then, and what is refused; which jobs may go is core's."""

import pytest
from starlette.testclient import TestClient

from core.store import files
from core.store.blobs import Blob
from core.store.tables import ExpiredFileRecord
from tests.app.conftest import ApiHarness
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.succeeded import NEW, succeed

RESULTS = Blob("7" * 64, 1000)


@pytest.fixture
def job_id(client: TestClient, harness: ApiHarness, file_id: str) -> str:
    """Id of a job that has succeeded."""
    return succeed(client, harness, file_id, NEW, name="ft:x")


def test_an_ended_job_is_deleted_as_the_dry_run_said(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    tried = client.delete(f"/v1/fine_tuning/jobs/{job_id}?dry_run=true").json()
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}").status_code == 200
    done = client.delete(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert done == {"id": job_id, "object": "fine_tuning.job", "deleted": True, "frees_bytes": 0, "keeps": []}
    assert tried == done | {"deleted": False}
    for path in ("", "/events", "/checkpoints", "/manifest"):
        answer = client.get(f"/v1/fine_tuning/jobs/{job_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
    assert client.delete(f"/v1/files/{file_id}").status_code == 200


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_one_that_goes_on_is_refused(client: TestClient, file_id: str, query: str) -> None:
    job_id = create(client, file_id).json()["id"]
    answer = client.delete(f"/v1/fine_tuning/jobs/{job_id}{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_not_ended")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_one_whose_model_is_served_is_refused_by_its_name(client: TestClient, job_id: str, query: str) -> None:
    answer = client.delete(f"/v1/fine_tuning/jobs/{job_id}{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_in_use")
    assert "its model ft:x is served" in answer.json()["error"]["message"]
    client.delete("/v1/models/ft:x")
    assert client.delete(f"/v1/fine_tuning/jobs/{job_id}{query}").status_code == 200


def test_its_idempotency_key_makes_a_new_job_then(client: TestClient, file_id: str) -> None:
    key = {"Idempotency-Key": "k"}
    first = create(client, file_id, headers=key).json()["id"]
    client.post(f"/v1/fine_tuning/jobs/{first}/cancel")
    client.delete(f"/v1/fine_tuning/jobs/{first}")
    assert create(client, file_id, headers=key).json()["id"] != first


def test_a_result_file_that_was_too_old_is_gone_and_says_by_which_setting(
    client: TestClient, harness: ApiHarness, job_id: str
) -> None:
    with harness.database.write() as session:
        file_id = files.create_results(session, job_id, RESULTS, ("step",), 1).id
        files.delete(session, file_id)
        session.add(ExpiredFileRecord(id=file_id, expired_at=1_800_000_000))
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/report?model=tiny"), ("DELETE", "")):
        answer = client.request(method, f"/v1/files/{file_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "file_expired")
        assert "2027-01-15" in answer.json()["error"]["message"]
        assert "LORAMILL_RETENTION_RESULT_FILES_D" in answer.json()["error"]["message"]
