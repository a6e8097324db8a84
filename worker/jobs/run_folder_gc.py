"""Frees the disk from jobs that ended while no worker had them, such as paused ones that were cancelled.

What a worker's own job leaves when it ends is dropped by ``worker.jobs.runner``.
"""

from core.store import jobs
from worker.jobs.run_folders import drop_large_files, folders_to_free
from worker.jobs.runtime import WorkerRuntime


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
