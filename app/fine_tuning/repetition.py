"""When a request for a job is one that was sent before: by its Idempotency-Key, or as a client's own retry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from app.http.wire import Body
from core.errors import IdempotencyMismatch
from core.ids import request_digest
from core.jobs.kind import JobKind
from core.store import jobs
from core.store.db import Session
from core.store.jobs import IdempotencyKey, NewJob
from core.store.tables import JobRecord

# The official client waits at most 8 s between two attempts, and sends no key of its own.
RETRY_WINDOW_S: Final = 10
_ROUTES: Final = {
    JobKind.FINE_TUNING: "POST /v1/fine_tuning/jobs",
    JobKind.EVALUATION: "POST /v1/evaluations",
    JobKind.EXPORT: "POST /v1/models/{name}/exports",
}


@dataclass(frozen=True)
class RequestOrigin:
    """Who asks for a job of a kind, and what tells a repetition from a new request.

    ``is_retry``: the client says that it repeats a request whose answer it did not get.
    """

    caller: str
    kind: JobKind
    idempotency_key: IdempotencyKey | None
    is_retry: bool

    @classmethod
    def of(
        cls, caller: str, key: str | None, *, is_retry: bool, kind: JobKind = JobKind.FINE_TUNING
    ) -> "RequestOrigin":
        """Take the Idempotency-Key as the caller sent it; None: none was sent."""
        named = None if key is None else IdempotencyKey(caller, _ROUTES[kind], key)
        return cls(caller, kind, named, is_retry)


def find_earlier(session: Session, request: Body, origin: RequestOrigin, now: int) -> JobRecord | None:
    """Find the job that an earlier attempt of this request made.

    Raises:
        IdempotencyMismatch: the key was used with another body.
    """
    request_sha256 = requested_of(request)[1]
    if origin.idempotency_key is not None:
        used = jobs.find_idempotent(session, origin.idempotency_key)
        if used is None:
            return None
        if used.body_sha256 != request_sha256:
            raise IdempotencyMismatch
        return jobs.get(session, used.job_id, origin.kind)
    if not origin.is_retry:
        return None
    return jobs.find_recent_duplicate(session, origin.caller, request_sha256, now - RETRY_WINDOW_S, origin.kind)


def record_once(
    session: Session, request: Body, origin: RequestOrigin, now: int, make: Callable[[dict[str, Any], str], NewJob]
) -> JobRecord:
    """Record a queued job, or give the one that an earlier attempt of this request made.

    Args:
        make: takes the fields that were sent, and the request's digest.

    Raises:
        FileNotStored, InvalidParameter: a file or an adapter was deleted since the specification was made.
        IdempotencyMismatch: the key was used with another body.
        IdempotencyInProgress: the key is being used at this moment.
    """
    earlier = find_earlier(session, request, origin, now)
    if earlier is not None:
        return earlier
    job = jobs.create(session, make(*requested_of(request)), now)
    if origin.idempotency_key is not None:
        jobs.remember_idempotent(
            session, origin.idempotency_key, body_sha256=job.request_sha256, job_id=job.id, now=now
        )
    return job


def requested_of(request: Body) -> tuple[dict[str, Any], str]:
    """Give the fields that were sent, and the digest by which a repetition is known."""
    requested = request.model_dump(mode="json", exclude_unset=True)
    return requested, request_digest(requested)
