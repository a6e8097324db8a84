"""The end of a job as its worker writes it, for tests of what comes after."""

from typing import Any

from sqlalchemy.orm import Session

from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.store.queue import leases


def finish(
    session: Session, job_id: str, *, now: int, result: dict[str, Any] | None = None, name: str = "ft:x"
) -> None:
    """End a job's first attempt with a model of this name, of a made-up adapter."""
    publication = Publication(StoredAdapter("b" * 64, 10, ()), name, "9 tokens", trained_tokens=9, result=result or {})
    leases.publish(session, leases.Lease(job_id, 1), publication, AttemptEnd(), now)
