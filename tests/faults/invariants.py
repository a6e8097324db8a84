"""What must hold when a fault is over, whatever it was: read from database and store, when nothing runs any more."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from core.errors import BlobNotFound
from core.jobs.events import EventType
from core.jobs.status import JobStatus
from core.serving.adapter_format import parse_manifest
from core.store.tables import AdapterRecord, AttemptRecord, CheckpointRecord, EventRecord, FileRecord, JobRecord
from tests.faults.deployment import FaultyDeployment

SUCCESS = "successfully completed"


@dataclass(frozen=True)
class Figures:
    """What came of a scenario, a row of the table.

    ``repeated``: trainings that began at step 0 although a checkpoint or the finished adapter was there.
    """

    accepted: int
    lost: int
    doubled: int
    succeeded: int
    repeated: int
    seconds: float
    remarks: tuple[str, ...] = ()

    def noting(self, *remarks: str) -> "Figures":
        return replace(self, remarks=(*self.remarks, *remarks))


def count(
    deployment: FaultyDeployment,
    accepted: Sequence[str],
    began_s: float,
    *,
    otherwise: Mapping[str, JobStatus] | None = None,
    damaged: frozenset[str] = frozenset(),
) -> Figures:
    """Count what became of the accepted jobs.

    Args:
        otherwise: the status of those jobs that must have another one than `succeeded` by now.
        damaged: digests of content that the scenario itself has broken for good.

    Raises:
        AssertionError: an invariant does not hold; all that do not are named.
    """
    with deployment.database.read() as session:
        rows = {job.id: job for job in session.scalars(select(JobRecord))}
        adapters = session.scalars(select(AdapterRecord)).all()
        served: list[AdapterRecord | CheckpointRecord] = [*adapters, *session.scalars(select(CheckpointRecord))]
        files = session.scalars(select(FileRecord)).all()
    violations = [f"{job_id} is gone" for job_id in accepted if job_id not in rows]
    for job in rows.values():
        violations += _violations_of(deployment, job)
    wanted = {file.sha256 for file in files} | {row.adapter_sha256 for row in served}
    violations += [problem for sha256 in sorted(wanted - damaged) for problem in _blob_problems(deployment, sha256)]
    for row in served:
        if row.adapter_sha256 not in damaged:
            violations += _adapter_problems(deployment, row.name, row.adapter_sha256, damaged)
    assert not violations, "\n".join(violations)
    expected = [
        job_id for job_id in accepted if rows[job_id].status is (otherwise or {}).get(job_id, JobStatus.SUCCEEDED)
    ]
    return Figures(
        accepted=len(accepted),
        lost=len(accepted) - len(expected),
        doubled=len(rows.keys() - set(accepted)) + len(adapters) - len({row.job_id for row in adapters}),
        succeeded=sum(rows[job_id].status is JobStatus.SUCCEEDED for job_id in accepted),
        repeated=sum(_repeated(deployment.events(job_id)) for job_id in accepted),
        seconds=time.monotonic() - began_s,
    )


def _violations_of(deployment: FaultyDeployment, job: JobRecord) -> Iterator[str]:
    events, attempts = deployment.events(job.id), deployment.attempts(job.id)
    if [event.seq for event in events] != list(range(1, job.event_seq + 1)):
        yield f"{job.id}: its events are not numbered from 1 to {job.event_seq} without gaps"
    if [attempt.token for attempt in attempts] != list(range(1, job.token + 1)):
        yield f"{job.id}: its attempts' tokens are not 1 to {job.token}"
    successes = sum(SUCCESS in event.message for event in events)
    if successes != (job.status is JobStatus.SUCCEEDED):
        yield f"{job.id}: {successes} events tell of its success, and it is {job.status.value}"
    if len(deployment.adapters(job.id)) != (job.status is JobStatus.SUCCEEDED):
        yield f"{job.id} is {job.status.value} and has {len(deployment.adapters(job.id))} adapters"
    if job.status is JobStatus.RUNNING or any(_is_open(attempt) for attempt in attempts):
        yield f"{job.id} is {job.status.value}, or an attempt at it has no end, though nothing runs"


def _is_open(attempt: AttemptRecord) -> bool:
    return attempt.ended_at is None


def _blob_problems(deployment: FaultyDeployment, sha256: str) -> Iterator[str]:
    try:
        with deployment.blobs.open(sha256) as content:
            found = hashlib.sha256(content.read()).hexdigest()
    except BlobNotFound:
        yield f"content {sha256[:12]} is referred to and not stored"
        return
    if found != sha256:
        yield f"content {sha256[:12]} is not what it is stored as"


def _adapter_problems(deployment: FaultyDeployment, name: str, sha256: str, damaged: frozenset[str]) -> Iterator[str]:
    """Tell what keeps an adapter from being loaded, as far as its bytes decide it."""
    try:
        with deployment.blobs.open(sha256) as content:
            manifest = parse_manifest(content.read())
    except BlobNotFound:
        yield f"{name}: its manifest is not stored"
        return
    for digest in manifest.files.values():
        if digest.sha256 not in damaged:
            for problem in _blob_problems(deployment, digest.sha256):
                yield f"{name}: {problem}"


def _repeated(events: Sequence[EventRecord]) -> int:
    """Count the trainings from step 0 that came after a state to go on from."""
    repeated, has_state = 0, False
    for event in events:
        step = (event.data or {}).get("step")
        is_step = event.type is EventType.METRICS and "train_loss" in (event.data or {})
        if is_step and step == 1 and has_state:
            repeated += 1
        has_state = has_state or event.message.startswith("Checkpoint written")
    return repeated
