"""Run folders of jobs that ended without a worker, on a real database and a real disk."""

import os
import threading
import time
from pathlib import Path

import pytest

from core.jobs.status import JobStatus
from core.store.references import rows
from core.store.retention import forgotten, job_deletion
from core.store.tables import AttemptRecord
from tests.worker.conftest import NOW, Home
from tests.worker.jobs.running import pause_in_the_middle, wait_for
from worker.celery.background import poll
from worker.jobs.host_gate import HostGate
from worker.jobs.run_folder_gc import DELETED_AFTER_S, drop_forgotten_run_folders, free_ended_run_folders
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime
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


def let_a_day_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the database's clock to more than a day after everything that these jobs did."""
    now = rows.database_now
    monkeypatch.setattr(forgotten, "database_now", lambda session: now(session) - int(time.time()) + NOW + 100_000)


class TestForgotten:
    """Run folders that nobody needs any more, as a job's that was deleted."""

    def folders(self, home: Home, job_id: str) -> list[str]:
        return sorted(path.name for path in (home.settings.runs_folder / job_id).glob("a*"))

    def ended(self, home: Home, *attempts: str) -> str:
        """Give a job that was cancelled after attempts with these outcomes, each with a folder."""
        job_id = home.queue()
        home.cancel(job_id)
        for token, outcome in enumerate(attempts, 1):
            folder = home.settings.runs_folder / job_id / f"a{token}"
            folder.mkdir(parents=True)
            (folder / LOG).write_text("words")
            with home.database.write() as session:
                made = AttemptRecord(job_id=job_id, token=token, owner="o", host="h", pid=1, started_at=1)
                made.outcome = outcome
                session.add(made)
        return job_id

    def keeping(self, home: Home, days: int | None) -> WorkerRuntime:
        return home.runtime(home.settings.model_copy(update={"retention_failed_attempts_d": days}))

    def test_of_failed_attempts_go_when_they_are_too_old(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = self.ended(home, "lost", "succeeded", "failed")
        for days in (None, 1):
            drop_forgotten_run_folders(self.keeping(home, days))
            assert self.folders(home, job_id) == ["a1", "a2", "a3"]
        let_a_day_pass(monkeypatch)
        drop_forgotten_run_folders(self.keeping(home, None))
        assert self.folders(home, job_id) == ["a1", "a2", "a3"]
        drop_forgotten_run_folders(self.keeping(home, 1))
        assert self.folders(home, job_id) == ["a2"]

    def test_of_a_job_that_goes_on_stay(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = home.queue()
        folder = home.settings.runs_folder / job_id / "a1"
        folder.mkdir(parents=True)
        let_a_day_pass(monkeypatch)
        drop_forgotten_run_folders(self.keeping(home, 1))
        assert self.folders(home, job_id) == ["a1"]

    def test_of_deleted_jobs_go_after_a_week(self, home: Home) -> None:
        job_id = self.ended(home, "failed")
        other = self.ended(home, "failed")
        with home.database.write() as session:
            job_deletion.delete(session, job_id)
        drop_forgotten_run_folders(home.runtime())
        assert self.folders(home, job_id) == ["a1"]
        week_ago = time.time() - DELETED_AFTER_S - 60
        for path in (home.settings.runs_folder / job_id, home.settings.runs_folder / other):
            for each in (path / "a1", path):
                os.utime(each, (week_ago, week_ago))
        drop_forgotten_run_folders(home.runtime())
        assert not (home.settings.runs_folder / job_id).exists()
        assert self.folders(home, other) == ["a1"]
