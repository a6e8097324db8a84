"""Jobs over HTTP that are cancelled, paused and resumed: what each shows, and what comes too late."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.jobs.attempt import AttemptEnd
from core.store.queue import claims, leases
from tests.app.conftest import BASE, ApiHarness
from tests.app.fine_tuning.created import create


def test_cancelling_is_done_at_once_and_can_be_repeated(client: TestClient, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    for _ in range(2):
        job = client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()
        assert (job["status"], job["queue_position"]) == ("cancelled", None)
        assert job["finished_at"] is not None
    (event,) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    assert event["object"] == "fine_tuning.job.event"


class TestPause:
    def test_of_a_queued_job_is_done_at_once_and_can_be_repeated(self, client: TestClient, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        for _ in range(2):
            job = control(client, job_id, "pause")
            assert (job["status"], job["pausing"], job["queue_position"]) == ("paused", False, None)
            assert (job["finished_at"], job["estimated_finish"]) == (None, None)
        (event,) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
        assert (event["message"], event["data"]) == ("The job was paused; it has no checkpoint yet", {"step": 0})
        assert [job["status"] for job in client.get("/v1/fine_tuning/jobs").json()["data"]] == ["paused"]

    def test_of_a_running_job_shows_until_it_is_done(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        token = claim(harness)
        with harness.database.write() as session:
            leases.heartbeat(session, leases.Lease(job_id, token), {"step": 5, "eta_s": 30.0})
        job = control(client, job_id, "pause")
        assert (job["status"], job["pausing"], job["estimated_finish"]) == ("running", True, None)
        with harness.database.write() as session:
            leases.release(session, leases.Lease(job_id, token), leases.PAUSED, AttemptEnd(), 20)
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert (job["status"], job["pausing"], job["progress"]["step"]) == ("paused", False, 5)

    def test_of_a_job_that_is_being_cancelled_is_in_vain(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        claim(harness)
        control(client, job_id, "cancel")
        assert control(client, job_id, "pause")["pausing"] is False

    @pytest.mark.parametrize(("verb", "word"), [("pause", "paused"), ("resume", "resumed")])
    def test_and_resumption_of_an_ended_job_are_refused(
        self, client: TestClient, file_id: str, verb: str, word: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        control(client, job_id, "cancel")
        response = client.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")
        assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
        error = response.json()["error"]
        assert error["code"] == "job_has_ended"
        assert error["message"].startswith(f"job {job_id} has ended (cancelled) and cannot be {word}")
        assert client.post(f"/v1/fine_tuning/jobs/ftjob-none/{verb}").status_code == 404


class TestResume:
    def test_queues_a_paused_job_and_notifies_workers(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        other = create(client, file_id).json()["id"]
        control(client, job_id, "pause")
        assert client.get(f"/v1/fine_tuning/jobs/{other}").json()["queue_position"] == 1
        harness.notifier.notified.clear()
        job = control(client, job_id, "resume")
        assert (job["status"], job["queue_position"]) == ("queued", 1)
        assert harness.notifier.notified == [job_id]

    def test_withdraws_a_pause_that_was_only_asked_for(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        claim(harness)
        control(client, job_id, "pause")
        harness.notifier.notified.clear()
        job = control(client, job_id, "resume")
        assert (job["status"], job["pausing"], harness.notifier.notified) == ("running", False, [])

    def test_after_a_long_pause_does_not_promise_an_end_that_has_passed(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        first = claim(harness)
        assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["estimated_finish"] is not None
        control(client, job_id, "pause")
        with harness.database.write() as session:
            leases.release(session, leases.Lease(job_id, first), leases.PAUSED, AttemptEnd(), 20)
        control(client, job_id, "resume")
        claim(harness)
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert (job["status"], job["estimated_finish"]) == ("running", None)


def control(client: TestClient, job_id: str, verb: str) -> Any:
    response = client.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")
    assert response.status_code == 200, response.text
    return response.json()


def claim(harness: ApiHarness) -> int:
    """Take the oldest queued job as a worker does; give its token."""
    with harness.database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 10)
    assert job is not None
    return job.token
