"""Run folders of jobs that ended without a worker, on a real database and a real disk."""

import os
import threading
from pathlib import Path

from core.jobs.status import JobStatus
from tests.worker.conftest import Home
from tests.worker.jobs.running import pause_in_the_middle, wait_for
from worker.celery.background import poll
from worker.jobs.host_gate import HostGate
from worker.jobs.run_folder_gc import free_ended_run_folders
from worker.jobs.runner import trainings
from worker.jobs.slot import WorkerSlot
from worker.trainer_process.run_folder import LOG, SPEC
from worker.trainer_process.stop import StopFlag


def large_files(home: Home, job_id: str) -> list[Path]:
    # os.walk passes over folders that are deleted while it looks
    walked = os.walk(home.settings.runs_folder / job_id)
    return [Path(folder, name) for folder, _, names in walked for name in names if name not in (SPEC, LOG)]


def test_a_paused_job_keeps_its_checkpoints_until_it_is_cancelled(home: Home) -> None:
    job_id = home.queue(steps=1000, step_s=0.02)
    pause_in_the_middle(home, job_id)
    kept = large_files(home, job_id)
    assert any(path.name == "state.json" for path in kept)

    free_ended_run_folders(home.runtime())
    assert large_files(home, job_id) == kept

    home.cancel(job_id)
    free_ended_run_folders(home.runtime())
    assert home.job(job_id).status is JobStatus.CANCELLED
    assert large_files(home, job_id) == []
    assert (home.settings.runs_folder / job_id / "a1" / LOG).exists()


def test_a_worker_does_so_while_it_looks_for_jobs(home: Home, tmp_path: Path) -> None:
    job_id = home.queue(steps=1000, step_s=0.02)
    pause_in_the_middle(home, job_id)
    home.cancel(job_id)
    stop = StopFlag()
    runtime = home.runtime()
    duty = trainings(HostGate(runtime))
    looking = threading.Thread(target=poll, args=(runtime, WorkerSlot(tmp_path / "slot"), stop, duty))
    looking.start()
    wait_for(lambda: not large_files(home, job_id))
    stop.request()
    looking.join()


def test_nothing_is_done_where_no_job_ran(home: Home) -> None:
    free_ended_run_folders(home.runtime())
