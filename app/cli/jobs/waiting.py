"""Waits at a terminal for a fine-tuning job to end."""

import time
from typing import Any, Final

from app.cli.client import Client
from core.errors import StartRefused
from core.jobs.status import TERMINAL, JobStatus

POLL_S: Final = 1.0


def await_success(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """Give a job, of which the API's newest answer is given, as it is when it has succeeded.

    Raises:
        StartRefused: it did not succeed, or the API does not answer.
    """
    while job["status"] not in TERMINAL:
        time.sleep(POLL_S)
        job = client.job(job["id"])
    if job["status"] != JobStatus.SUCCEEDED:
        reason = (job["error"] or {}).get("message", "")
        raise StartRefused(f"job {job['id']} {job['status']}{f': {reason}' if reason else ''}")
    return job
