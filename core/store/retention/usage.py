"""How many bytes lie in the store and because of what, each blob counted once; and how many the database has itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import or_, select, text

from core.store.blobs import BlobStore
from core.store.db import Database, Session, sqlite_file
from core.store.files import RESULTS_PURPOSE
from core.store.references.rows import database_now
from core.store.tables import (
    BLOB_REFERENCES,
    AdapterRecord,
    AdapterState,
    BlobPartRecord,
    BlobRecord,
    CheckpointRecord,
    ExportFileRecord,
    FileRecord,
)

# Of a SQLite database, beside its file: what SQLite makes, and `core.store.reserve`.
_BESIDE: Final = ("", "-journal", "-wal", "-shm", ".reserve")


class StoredFor(StrEnum):
    """Because of what a blob is there. One that several need belongs to the first of these that does."""

    FILES = "files"
    RESULT_FILES = "result_files"
    MODELS = "models"
    CHECKPOINTS = "checkpoints"
    EXPORTS = "exports"
    UNFINISHED_JOBS = "unfinished_jobs"  # adapters of deleted models, that these go on from or ask
    WAITING = "waiting"  # nobody's, and the grace is not over
    DUE = "due"  # nobody's, and to be freed
    UNRECORDED = "unrecorded"  # no row and no record knows it


@dataclass(frozen=True)
class DiskUsage:
    """How many files there are of a kind, and how many bytes they have."""

    count: int
    bytes: int


def measure_store(database: Database, blobs: BlobStore, grace_s: float) -> dict[StoredFor, DiskUsage]:
    """Tell for what the store's bytes are there; what lies on the disk is counted, not what rows say of it.

    Raises:
        DatabaseUnavailable: the database was busy or unreachable.
    """
    with database.read() as session:
        kinds = _kinds(session, int(grace_s))
    sizes: dict[StoredFor, list[int]] = {kind: [] for kind in StoredFor}
    for found in blobs.list_objects():
        sizes[kinds.get(found.sha256, StoredFor.UNRECORDED)].append(found.bytes)
    return {kind: DiskUsage(len(each), sum(each)) for kind, each in sizes.items()}


def measure_database(database: Database, url: str) -> DiskUsage:
    """Tell how large the database is: its files, or what PostgreSQL says of it."""
    if database.dialect == "sqlite":
        file = sqlite_file(url)
        sizes = [path.stat().st_size for end in _BESIDE if (path := file.with_name(file.name + end)).exists()]
        return DiskUsage(len(sizes), sum(sizes))
    with database.read() as session:
        return DiskUsage(1, session.scalars(text("SELECT pg_database_size(current_database())")).one())


def _kinds(session: Session, grace_s: int) -> dict[str, StoredFor]:
    is_result = FileRecord.purpose == RESULTS_PURPOSE
    live = select(AdapterRecord.adapter_sha256).where(AdapterRecord.state == AdapterState.LIVE)
    served = (
        select(CheckpointRecord.adapter_sha256)
        .outerjoin(AdapterRecord, AdapterRecord.job_id == CheckpointRecord.job_id)
        .where(or_(AdapterRecord.id.is_(None), AdapterRecord.state == AdapterState.LIVE))
    )
    parts: dict[str, list[str]] = {}
    for manifest, part in session.execute(select(BlobPartRecord.manifest_sha256, BlobPartRecord.sha256)):
        parts.setdefault(manifest, []).append(part)

    def with_parts(manifests: Iterable[str]) -> Iterable[str]:
        return (sha256 for manifest in manifests for sha256 in (manifest, *parts.get(manifest, ())))

    old = select(BlobRecord.sha256).where(BlobRecord.touched_at <= database_now(session) - grace_s)
    found: tuple[tuple[StoredFor, Iterable[str]], ...] = (
        (StoredFor.FILES, session.scalars(select(FileRecord.sha256).where(~is_result))),
        (StoredFor.RESULT_FILES, session.scalars(select(FileRecord.sha256).where(is_result))),
        (StoredFor.MODELS, with_parts(session.scalars(live))),
        (StoredFor.CHECKPOINTS, with_parts(session.scalars(served))),
        (StoredFor.EXPORTS, session.scalars(select(ExportFileRecord.sha256))),
        (StoredFor.UNFINISHED_JOBS, session.scalars(select(BLOB_REFERENCES.c.sha256))),
        (StoredFor.DUE, session.scalars(old)),
        (StoredFor.WAITING, session.scalars(select(BlobRecord.sha256))),
    )
    kinds: dict[str, StoredFor] = {}
    for kind, digests in found:
        for sha256 in digests:
            kinds.setdefault(sha256, kind)
    return kinds
