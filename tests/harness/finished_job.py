"""The end of a job as its worker writes it, for tests of what comes after."""

from typing import Any

from sqlalchemy.orm import Session

from core.store import leases


def finish(session: Session, job_id: str, *, now: int, result: dict[str, Any] | None = None) -> None:
    """End a job's first attempt with a model named ``ft:x``, of a made-up adapter."""
    leases.publish(
        session,
        job_id,
        1,
        adapter_sha256="b" * 64,
        bytes=10,
        name="ft:x",
        trained_on="9 tokens",
        trained_tokens=9,
        result=result or {},
        now=now,
    )
