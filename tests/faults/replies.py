"""A process of the API that dies between its commit and its answer."""

import time
from pathlib import Path

import httpx2

from tests.faults.deployment import FaultyDeployment, deployed, example_file, job_body, key_header
from tests.faults.failpoints import KILL_BEFORE_REPLY
from tests.faults.invariants import Figures, count

ROUNDS = 3


def killed_before_reply(home: Path) -> Figures:
    """The client sees a broken connection; the file or job is there once, and a retry with the key gives the same."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        deployment.start_api()
        files = [_upload_and_lose_the_answer(deployment) for _ in range(ROUNDS)]
        assert len(set(files)) == ROUNDS
        jobs = []
        for number, file_id in enumerate(files):
            before = _jobs(deployment)
            _lose_the_answer(deployment, file_id, key=f"key-{number}")
            listed = _jobs(deployment) - before
            assert len(listed) == 1, "the job whose answer was lost is listed, once"
            again = deployment.create_job(file_id, key=f"key-{number}")
            assert {again} == listed, "the key gives the job that was made"
            other = deployment.client.post(
                "/v1/fine_tuning/jobs", json=job_body(file_id) | {"seed": 1}, headers=key_header(f"key-{number}")
            )
            assert 400 <= other.status_code < 500, other.text  # the key with another body
            jobs.append(again)
        without_key = _jobs(deployment)
        _lose_the_answer(deployment, files[0], key=None)
        [unnamed] = _jobs(deployment) - without_key
        jobs.append(unnamed)
        deployment.start_worker()
        deployment.wait_for_status(jobs, "succeeded")
        return count(deployment, jobs, began_s).noting(f"{ROUNDS} files, {len(jobs)} jobs without an answer")


def _upload_and_lose_the_answer(deployment: FaultyDeployment) -> str:
    before = _files(deployment)
    deployment.arm(KILL_BEFORE_REPLY)
    try:
        answer = deployment.client.post(
            "/v1/files", files={"file": ("data.jsonl", example_file(steps=4))}, data={"purpose": "fine-tune"}
        )
    except httpx2.TransportError:
        _restart(deployment)
        [file_id] = _files(deployment) - before
        return file_id
    raise AssertionError(f"the API outlived its own end: {answer.status_code}")


def _lose_the_answer(deployment: FaultyDeployment, file_id: str, key: str | None) -> None:
    deployment.arm(KILL_BEFORE_REPLY)
    try:
        answer = deployment.client.post("/v1/fine_tuning/jobs", json=job_body(file_id), headers=key_header(key))
    except httpx2.TransportError:
        _restart(deployment)
        return
    raise AssertionError(f"the API outlived its own end: {answer.status_code}")


def _restart(deployment: FaultyDeployment) -> None:
    deployment.processes[-1].wait(30)
    assert not deployment.is_armed(KILL_BEFORE_REPLY)
    deployment.start_api()


def _files(deployment: FaultyDeployment) -> set[str]:
    return {str(file["id"]) for file in deployment.client.get("/v1/files").json()["data"]}


def _jobs(deployment: FaultyDeployment) -> set[str]:
    return {str(job["id"]) for job in deployment.client.get("/v1/fine_tuning/jobs").json()["data"]}
