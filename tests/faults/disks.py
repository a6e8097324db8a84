"""Disks that are full, or slow."""

import time
from pathlib import Path

from core.jobs.status import JobStatus
from tests.faults.deployment import FaultyDeployment, deployed, job_body
from tests.faults.invariants import Figures, count
from tests.faults.scenario import fill, small_disk

QUEUED = 20
ROOM_MB = 16  # a worker tries a host with a few megabytes


def full_run_folder(home: Path) -> Figures:
    """With no room for run folders, queued jobs wait, uncounted; when there is room again, all are trained."""
    began_s = time.monotonic()
    with deployed(home) as deployment, small_disk(deployment.settings.runs_folder, ROOM_MB) as runs:
        ballast = fill(runs)
        deployment.start_api()
        file_id = deployment.upload(steps=2, step_s=0.01)
        jobs = [deployment.create_job(file_id) for _ in range(QUEUED)]
        deployment.start_worker()
        deployment.wait_for(lambda: _tells_of_host(deployment, jobs), "an event that tells of the disk")
        time.sleep(5)  # in which a worker that takes it for the jobs' fault fails them
        assert [deployment.job(job_id).status.value for job_id in jobs] == ["queued"] * QUEUED
        assert [deployment.job(job_id).attempts for job_id in jobs] == [0] * QUEUED
        ballast.unlink()
        deployment.wait_for_status(jobs, "succeeded", "failed")
        return count(deployment, jobs, began_s)


def full_store(home: Path) -> Figures:
    """With no room for the result, nothing that was trained is thrown away: it is published when there is room."""
    began_s = time.monotonic()
    with deployed(home) as deployment, small_disk(deployment.settings.store_folder, ROOM_MB) as store:
        deployment.start_api()
        jobs = [deployment.create_job(deployment.upload(steps=6, step_s=0.3))]
        ballast = fill(store)
        deployment.start_worker()
        deployment.wait_for(lambda: deployment.steps_of(jobs[0]) >= 6, "the last step")
        time.sleep(5)
        assert deployment.job(jobs[0]).status.value in ("running", "queued"), deployment.job(jobs[0]).error_message
        ballast.unlink()
        deployment.wait_for_status(jobs, "succeeded", "failed")
        return count(deployment, jobs, began_s)


def trainer_disk_full(home: Path) -> Figures:
    """A trainer whose disk fills up in mid-run ends with a reason; the job goes on from its last whole checkpoint."""
    began_s = time.monotonic()
    with deployed(home) as deployment, small_disk(deployment.settings.runs_folder, ROOM_MB) as runs:
        deployment.start_api()
        jobs = [deployment.create_job(deployment.upload(steps=30, step_s=0.2, checkpoint_every=5))]
        deployment.start_worker()
        deployment.wait_for(lambda: bool(deployment.checkpoints(jobs[0])), "the first checkpoint")
        ballast = fill(runs)
        deployment.wait_for(lambda: _tells_of_host(deployment, jobs), "an event that tells of the disk")
        assert deployment.job(jobs[0]).attempts == 0
        ballast.unlink()
        deployment.wait_for_status(jobs, "succeeded", "failed")
        assert deployment.attempts(jobs[0])[-1].resumed_from_step, "the last attempt goes on from a checkpoint"
        return count(deployment, jobs, began_s)


def _tells_of_host(deployment: FaultyDeployment, jobs: list[str]) -> bool:
    return any("no space" in event.message for job_id in jobs for event in deployment.events(job_id))


def slow_disk(home: Path) -> Figures:
    """While the database's file takes no writes for less than a lease, again and again, no live job is taken away."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        deployment.start_api()
        jobs = [deployment.create_job(deployment.upload(steps=60, step_s=0.1, checkpoint_every=5))]
        deployment.start_worker()
        deployment.wait_for(lambda: deployment.steps_of(jobs[0]) >= 1, "the first step")
        stalls = 0
        while deployment.job(jobs[0]).status.value == "running" and stalls < 4:
            with deployment.database.write():  # every other write waits, as on a disk that does not answer
                time.sleep(deployment.settings.lease_ttl_s * 0.4)
            stalls += 1
            time.sleep(0.5)
        deployment.wait_for_status(jobs, "succeeded", "failed")
        assert [attempt.outcome for attempt in deployment.attempts(jobs[0])] == ["succeeded"]
        return count(deployment, jobs, began_s).noting(f"{stalls} stalls")


def full_home(home: Path) -> Figures:
    """On a disk without a byte left, files and models can be deleted and jobs cancelled; what is left works on."""
    began_s = time.monotonic()
    with small_disk(home, ROOM_MB), deployed(home) as deployment:
        deployment.start_api()
        worker = deployment.start_worker()
        unused, file_id = deployment.upload(steps=2, says="x" * 2**19), deployment.upload(steps=2)
        done = deployment.create_job(file_id)
        deployment.wait_for_status([done], "succeeded", "failed")
        worker.terminate()
        worker.wait(30)
        waiting = deployment.create_job(file_id)
        ballast = fill(home)
        refused = deployment.client.post("/v1/fine_tuning/jobs", json=job_body(file_id))
        assert refused.status_code == 507, refused.text
        model = deployment.job(done).fine_tuned_model
        for method, path in (
            ("POST", f"/v1/fine_tuning/jobs/{waiting}/cancel"),
            ("DELETE", f"/v1/models/{model}"),
            ("DELETE", f"/v1/files/{unused}"),
        ):
            answer = deployment.client.request(method, path)
            assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        assert deployment.job(waiting).status.value == "cancelled"
        ballast.unlink()
        last = deployment.create_job(file_id)
        deployment.start_worker()
        deployment.wait_for_status([last], "succeeded", "failed")
        return count(deployment, [done, last, waiting], began_s, otherwise={waiting: JobStatus.CANCELLED})
