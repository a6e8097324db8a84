"""Records of files, uploaded or made by a job; their bytes are in the blob store.

Several records may share one blob, so deleting a record deletes no bytes: `core.store.references` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from core.errors import FileExpired, FileInUse, FileNotStored
from core.experiments.status import ExperimentStatus
from core.ids import new_id
from core.jobs.status import TERMINAL, JobStatus
from core.store.blobs import Blob
from core.store.db import Session
from core.store.references.owners import Freed, let_go_and_tell
from core.store.tables import (
    ExperimentFileRecord,
    ExperimentRecord,
    ExpiredFileRecord,
    FileRecord,
    FileStatus,
    JobRecord,
)
from core.text.files.csv import CSV

RESULTS_PURPOSE: Final = "fine-tune-results"  # of a finished job's file of metrics; both names are OpenAI's
RESULTS_FILENAME: Final = "step_metrics.csv"
SCORES_FILENAME: Final = "scores.csv"  # of an ended evaluation


@dataclass(frozen=True)
class NewFile:
    """A file whose bytes are stored already."""

    caller: str
    filename: str
    purpose: str
    blob: Blob
    file_type: str  # name of a core.text.files.file_type.FileType
    status: FileStatus = FileStatus.PROCESSED
    status_details: str | None = None  # why it cannot be trained on
    example_format: str | None = None  # core.text.files.examples.ExampleFormat
    columns: Sequence[str] | None = None
    examples: int = 0


def create(session: Session, new: NewFile, now: int) -> FileRecord:
    """Record a file whose bytes are stored already."""
    file = FileRecord(
        id=new_id("file-"),
        caller=new.caller,
        filename=new.filename,
        purpose=new.purpose,
        bytes=new.blob.bytes,
        sha256=new.blob.sha256,
        status=new.status,
        status_details=new.status_details,
        file_type=new.file_type,
        example_format=new.example_format,
        columns=None if new.columns is None else list(new.columns),
        examples=new.examples,
        created_at=now,
    )
    session.add(file)
    session.flush()
    return file


def create_results(
    session: Session, job_id: str, blob: Blob, columns: Sequence[str], now: int, *, filename: str = RESULTS_FILENAME
) -> FileRecord:
    """Record a job's result file, whose bytes are stored already, for the job's caller."""
    caller = session.scalars(select(JobRecord.caller).where(JobRecord.id == job_id)).one()
    return create(session, NewFile(caller, filename, RESULTS_PURPOSE, blob, CSV.name, columns=columns), now)


def get(session: Session, file_id: str) -> FileRecord:
    """Give a file's record.

    Raises:
        FileNotStored: there is none, or it was deleted; FileExpired where it was a job's results and too old.
    """
    file = session.get(FileRecord, file_id)
    if file is None:
        raise _not_stored(session, file_id)
    return file


def find_same(session: Session, sha256: str, file_type: str) -> FileRecord | None:
    """Find one of the files of these bytes that can be trained on; None where there is none."""
    return session.scalar(
        select(FileRecord)
        .where(
            FileRecord.sha256 == sha256, FileRecord.file_type == file_type, FileRecord.status == FileStatus.PROCESSED
        )
        .limit(1)
    )


def list_page(
    session: Session,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> tuple[Sequence[FileRecord], bool]:
    """List files by age, and tell whether there are more.

    Args:
        after: id of the last file already seen (it may be deleted since); None starts at the end ``order`` names.
        order: "desc" gives the newest first.
        purpose: only files of this purpose; None gives all.
    """
    query = select(FileRecord)
    if purpose is not None:
        query = query.where(FileRecord.purpose == purpose)
    if order == "desc":
        query = query.order_by(FileRecord.id.desc())
        query = query if after is None else query.where(FileRecord.id < after)
    else:
        query = query.order_by(FileRecord.id)
        query = query if after is None else query.where(FileRecord.id > after)
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def delete(session: Session, file_id: str) -> Freed:
    """Delete a file's record; the blob's grace begins where no other record shares it.

    Raises:
        FileNotStored: there is no such file, or none any more, as `get`.
        FileInUse: a job or an experiment that has not ended needs it.
    """
    # The lock keeps a job from being made on the file between the check and the deletion.
    file = session.scalar(select(FileRecord).where(FileRecord.id == file_id).with_for_update())
    if file is None:
        raise _not_stored(session, file_id)
    user = _find_user(session, file_id)
    if user is not None:
        raise FileInUse(file_id, user)
    session.execute(sql_delete(FileRecord).where(FileRecord.id == file_id))
    return let_go_and_tell(session, [file.sha256])


def _not_stored(session: Session, file_id: str) -> FileNotStored:
    expired = session.get(ExpiredFileRecord, file_id)
    return FileNotStored(file_id) if expired is None else FileExpired(file_id, expired.expired_at)


def _find_user(session: Session, file_id: str) -> str | None:
    """Find what has not ended and needs the file; by lookups in indexes, as others wait for the lock."""
    unfinished = JobRecord.status.in_([status for status in JobStatus if status not in TERMINAL])
    for named in (JobRecord.training_file_id, JobRecord.validation_file_id):
        user = session.scalar(select(JobRecord.id).where(named == file_id, unfinished).limit(1))
        if user is not None:
            return f"job {user}"
    experiment = session.scalar(
        select(ExperimentRecord.id)
        .join(ExperimentFileRecord, ExperimentFileRecord.experiment_id == ExperimentRecord.id)
        .where(ExperimentFileRecord.file_id == file_id, ExperimentRecord.status == ExperimentStatus.RUNNING)
        .limit(1)
    )
    return None if experiment is None else f"experiment {experiment}"
