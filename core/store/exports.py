"""The files of exports, by which their stored bytes stay. An export itself is a job, in `core.store.jobs`."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select

from core.serving.adapter_format import FileDigest
from core.store.db import Session
from core.store.references.owners import Freed, let_go_and_tell
from core.store.tables import ExportFileRecord


def add_files(session: Session, job_id: str, files: Mapping[str, FileDigest]) -> None:
    """Record what an export made; in the transaction that ends it, which holds the bytes."""
    session.add_all(
        ExportFileRecord(job_id=job_id, name=name, sha256=file.sha256, bytes=file.bytes) for name, file in files.items()
    )
    session.flush()


def list_files(session: Session, job_ids: Sequence[str]) -> dict[str, dict[str, FileDigest]]:
    """List the files of exports by the exports' ids, each by name in the order of names; none of one without any."""
    found: dict[str, dict[str, FileDigest]] = {job_id: {} for job_id in job_ids}
    rows = (
        select(ExportFileRecord)
        .where(ExportFileRecord.job_id.in_(job_ids))
        .order_by(ExportFileRecord.job_id, ExportFileRecord.name)
    )
    for row in session.scalars(rows):
        found[row.job_id][row.name] = FileDigest(sha256=row.sha256, bytes=row.bytes)
    return found


def drop_files(session: Session, job_id: str) -> Freed:
    """Let go of what an export made, and say what is freed after the grace."""
    digests = session.scalars(
        delete(ExportFileRecord)
        .where(ExportFileRecord.job_id == job_id)
        .returning(ExportFileRecord.sha256)
        .execution_options(synchronize_session=False)
    ).all()
    return let_go_and_tell(session, digests)
