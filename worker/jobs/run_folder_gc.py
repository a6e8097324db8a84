"""Frees the disk from jobs that ended while no worker had them, such as paused ones that were cancelled; and from what
is left in run folders of jobs that were deleted, and of attempts that failed too long ago.

What a worker's own job leaves when it ends is dropped by ``worker.jobs.runner``.
"""

import shutil
import time
from pathlib import Path
from typing import Final

from core.store import jobs
from core.store.retention.forgotten import find_kept_attempts, list_deleted
from worker.jobs.run_folders import attempt_folders, drop_large_files, folders_to_free, jobs_with_folders
from worker.jobs.runtime import WorkerRuntime

FORGET_EVERY_S: Final = 60 * 60
# Younger ones could be of a job that a database being restored does not have yet.
DELETED_AFTER_S: Final = 7 * 24 * 60 * 60
_ASKED: Final = 500  # jobs in one question


def free_ended_run_folders(runtime: WorkerRuntime) -> None:
    """Remove the large files that ended jobs have on this machine; those of jobs that go on stay.

    Raises:
        DatabaseUnavailable: it cannot be asked which jobs have ended.
    """
    # whichever attempt still has any, the others of its job are looked at as well
    folders = folders_to_free(runtime.settings.runs_folder)
    if not folders:
        return
    with runtime.database.read() as session:
        ended = jobs.list_ended(session, sorted(folders))
    for job_id in ended:
        drop_large_files(folders[job_id])


def drop_forgotten_run_folders(runtime: WorkerRuntime) -> None:
    """Remove the run folders of deleted jobs that nothing was written to for a week, and of attempts that failed.

    Those of failed attempts stay for as long as LORAMILL_RETENTION_FAILED_ATTEMPTS_D says.

    Raises:
        DatabaseUnavailable: it cannot be asked which these are.
    """
    runs, keep_days = runtime.settings.runs_folder, runtime.settings.retention_failed_attempts_d
    there = sorted(jobs_with_folders(runs))
    for job_ids in (there[start : start + _ASKED] for start in range(0, len(there), _ASKED)):
        with runtime.database.read() as session:
            deleted = list_deleted(session, job_ids)
            kept = {} if keep_days is None else find_kept_attempts(session, job_ids, keep_days)
        for job_id in deleted:
            if _rests_for(runs / job_id, DELETED_AFTER_S):
                shutil.rmtree(runs / job_id, ignore_errors=True)
        for job_id, succeeded in kept.items():
            for folder in attempt_folders(runs, job_id):
                if folder.name != f"a{succeeded}":
                    shutil.rmtree(folder, ignore_errors=True)


def _rests_for(folder: Path, seconds: float) -> bool:
    try:
        return all(time.time() - path.stat().st_mtime >= seconds for path in (folder, *folder.iterdir()))
    except FileNotFoundError:  # another thread or process is at the same
        return False
