"""Stored bytes that are gone or changed, and a machine that lacks what a job needs."""

import shutil
import time
from pathlib import Path

from core.store import files
from tests.faults.deployment import BASE, FaultyDeployment, deployed
from tests.faults.invariants import Figures, count


def shared_content_deleted(home: Path) -> Figures:
    """A file, its twin and models share content; deleting one of them takes nothing from the others."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        deployment.start_api()
        deployment.start_worker()
        first, twin = deployment.upload(steps=4), deployment.upload(steps=4)
        jobs = [deployment.create_job(first)]
        deployment.wait_for_status(jobs, "succeeded", "failed")
        # the same examples and the same fake weights: the two models share their content
        jobs.append(deployment.create_job(first))
        deployment.wait_for_status(jobs, "succeeded", "failed")
        assert _delete(deployment, f"/v1/files/{first}") == 200
        assert deployment.client.get(f"/v1/files/{twin}/content").status_code == 200
        jobs.append(deployment.create_job(twin))
        deployment.wait_for_status(jobs, "succeeded", "failed")
        models = [str(deployment.job(job_id).fine_tuned_model) for job_id in jobs]
        results = [str(deployment.client.get(f"/v1/fine_tuning/jobs/{job}").json()["result_files"][0]) for job in jobs]
        assert _delete(deployment, f"/v1/models/{models[0]}") == 200
        assert _delete(deployment, f"/v1/files/{results[0]}") == 200
        assert {deployment.client.get(f"/v1/files/{result}/content").status_code for result in results[1:]} == {200}
        listed = {model["id"] for model in deployment.client.get("/v1/models").json()["data"]}
        assert set(models[1:]) <= listed
        assert models[0] not in listed
        return count(deployment, jobs, began_s)


def _delete(deployment: FaultyDeployment, path: str) -> int:
    return int(deployment.client.delete(path).status_code)


def flipped_byte(home: Path) -> Figures:
    """A byte of a training file turns over at rest: no job trains on it, and the next upload of it mends it."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        deployment.start_api()
        file_id = deployment.upload(steps=4)
        jobs = [deployment.create_job(file_id)]
        with deployment.database.read() as session:
            sha256 = files.get(session, file_id).sha256
        content = deployment.settings.store_folder / "blobs" / sha256[:2] / sha256
        _flip(content)
        deployment.start_worker()
        deployment.wait_for(lambda: _is_noticed(deployment, jobs[0]), "a word about the damage")
        assert deployment.adapters(jobs[0]) == [], "nothing was trained on what was not uploaded"
        assert deployment.steps_of(jobs[0]) == 0
        again = deployment.upload(steps=4)  # the same content, which takes the damaged one's place
        jobs.append(deployment.create_job(again))
        deployment.wait_for_status(jobs, "succeeded", "failed")
        # whether the first one is told of it or waits for sound bytes, it ends with a reason or with a model
        first = deployment.job(jobs[0])
        assert first.error_code in (None, "blob_damaged")
        return count(deployment, jobs, began_s, otherwise={jobs[0]: first.status})


def _flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _is_noticed(deployment: FaultyDeployment, job_id: str) -> bool:
    told = [event.message for event in deployment.events(job_id)]
    return any("changed on disk" in message for message in (*told, deployment.job(job_id).error_message or ""))


def no_base_model(home: Path) -> Figures:
    """A worker without the base model leaves its jobs queued and uncounted, with a reason; one with it trains them."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        deployment.start_api()
        jobs = [deployment.create_job(deployment.upload(steps=2)) for _ in range(3)]
        base = deployment.settings.base_models_folder / BASE
        away = base.with_name("away")
        shutil.move(base, away)
        deployment.start_worker()
        deployment.wait_for(lambda: all(_tells_of_base(deployment, job_id) for job_id in jobs[:1]), "a reason")
        time.sleep(5)  # in which a worker that takes it for the jobs' fault fails them
        assert [deployment.job(job_id).status.value for job_id in jobs] == ["queued"] * 3
        assert [deployment.job(job_id).attempts for job_id in jobs] == [0] * 3
        shutil.move(away, base)
        deployment.wait_for_status(jobs, "succeeded", "failed")
        return count(deployment, jobs, began_s)


def _tells_of_base(deployment: FaultyDeployment, job_id: str) -> bool:
    return any(BASE in event.message and "import" in event.message for event in deployment.events(job_id))
