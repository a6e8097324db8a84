"""Evaluations over HTTP: repeated requests, the line they wait in, and how one ends."""

from starlette.testclient import TestClient

from core.jobs.attempt import AttemptEnd
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from tests.app.conftest import BASE, ApiHarness
from tests.app.evaluations.asking import PATH, ask


class TestRepetition:
    def test_by_key_gives_the_same_evaluation(self, client: TestClient, file_id: str) -> None:
        headers = {"Idempotency-Key": "k"}
        first = ask(client, headers, file=file_id).json()
        assert ask(client, headers, file=file_id).json()["id"] == first["id"]
        assert ask(client, headers, file=file_id, max_rows=9).status_code == 422
        assert len(client.get(PATH).json()["data"]) == 1

    def test_of_a_client_gives_the_same_evaluation(self, client: TestClient, file_id: str) -> None:
        first = ask(client, file=file_id).json()
        assert ask(client, {"x-stainless-retry-count": "1"}, file=file_id).json()["id"] == first["id"]


class TestKinds:
    def test_have_routes_of_their_own(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        evaluation = ask(client, file=file_id).json()["id"]
        job = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()["id"]
        assert [each["id"] for each in client.get("/v1/fine_tuning/jobs").json()["data"]] == [job]
        assert [each["id"] for each in client.get(PATH).json()["data"]] == [evaluation]
        for path in ("", "/events", "/checkpoints"):
            assert client.get(f"/v1/fine_tuning/jobs/{evaluation}{path}").status_code == 404
        for action in ("cancel", "pause", "resume"):
            assert client.post(f"/v1/fine_tuning/jobs/{evaluation}/{action}").status_code == 404
        for path in ("", "/events", "/rows"):
            error = client.get(f"{PATH}/{job}{path}").json()["error"]
            assert error["code"] == "evaluation_not_found"
        assert client.post(f"{PATH}/{job}/cancel").status_code == 404

    def test_wait_in_lines_of_their_own(self, client: TestClient, file_id: str) -> None:
        client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
        assert ask(client, file=file_id).json()["queue_position"] == 1


def test_a_waiting_evaluation_is_cancelled_at_once(client: TestClient, file_id: str) -> None:
    evaluation = ask(client, file=file_id).json()["id"]
    assert client.post(f"{PATH}/{evaluation}/cancel").json()["status"] == "cancelled"
    [event] = client.get(f"{PATH}/{evaluation}/events").json()["data"]
    assert (event["object"], event["message"]) == ("evaluation.event", "The job was cancelled before it started")


def test_an_ended_evaluation_tells_its_result_and_its_file(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    evaluation = ask(client, file=file_id).json()["id"]
    with harness.database.write() as session:
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), 2, kind=JobKind.EVALUATION)
        assert claimed is not None
        result = {"rows": 100, "result_files": ["file-x"]}
        leases.conclude(session, Lease(evaluation, claimed.token), JobEvent("done"), result, AttemptEnd(), 3)
    told = client.get(f"{PATH}/{evaluation}").json()
    assert (told["status"], told["result"], told["result_files"]) == ("succeeded", {"rows": 100}, ["file-x"])
