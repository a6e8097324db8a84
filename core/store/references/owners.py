"""Who needs stored bytes, in words: one record that refers to each, and so what a deletion frees and what it leaves.

That something refers to a blob is the view `blob_references`; here it has a name.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, text

from core.jobs.status import TERMINAL
from core.store.db import Session
from core.store.references.rows import let_go
from core.store.tables import BlobPartRecord, BlobRecord

_GOES_ON: Final = f"jobs.status NOT IN ({', '.join(repr(status.value) for status in sorted(TERMINAL))})"
# A blob may be a manifest, a file that manifests name, or both. Each arm begins at a column with an index, and none is
# asked after the first that finds one.
_OWNER: Final = text(
    "WITH manifests AS (SELECT CAST(:sha256 AS VARCHAR(64)) AS sha256, 'the manifest of ' AS role UNION ALL "
    "SELECT manifest_sha256, 'a file of ' FROM blob_parts WHERE sha256 = :sha256) "
    "SELECT '' AS role, 'file ' || id AS name FROM files WHERE sha256 = :sha256 UNION ALL "
    "SELECT '', 'export ' || job_id FROM export_files WHERE sha256 = :sha256 UNION ALL "
    "SELECT role, adapters.name FROM manifests JOIN adapters ON adapters.adapter_sha256 = manifests.sha256 "
    "WHERE adapters.state = 'live' UNION ALL "
    "SELECT role, checkpoints.name FROM manifests JOIN checkpoints ON checkpoints.adapter_sha256 = manifests.sha256 "
    "LEFT JOIN adapters ON adapters.job_id = checkpoints.job_id "
    "WHERE adapters.id IS NULL OR adapters.state = 'live' UNION ALL "
    "SELECT role, 'job ' || jobs.id FROM manifests "
    f"JOIN jobs ON jobs.continue_from_sha256 = manifests.sha256 WHERE {_GOES_ON} UNION ALL "
    "SELECT role, jobs.kind || ' ' || jobs.id FROM manifests "
    "JOIN job_adapters ON job_adapters.adapter_sha256 = manifests.sha256 "
    f"JOIN jobs ON jobs.id = job_adapters.job_id WHERE {_GOES_ON} LIMIT 1"
)


@dataclass(frozen=True)
class Freed:
    """What goes with a deleted record after the grace.

    Attributes:
        bytes: of what nothing else refers to, each blob counted once.
        keeps: a sentence for each other record because of which bytes stay.
    """

    bytes: int
    keeps: tuple[str, ...]


def owners_of(session: Session, digests: Collection[str]) -> dict[str, str]:
    """Name one record that refers to each blob, such as "a file of ft:…"; those that none refers to are left out."""
    owners = {}
    for sha256 in sorted(set(digests)):
        owner = _find_owner(session, sha256)
        if owner is not None:
            owners[sha256] = "".join(owner)
    return owners


def let_go_and_tell(session: Session, digests: Collection[str]) -> Freed:
    """As `core.store.references.rows.let_go`, and say of what stays who needs it."""
    frees_bytes = let_go(session, digests)
    parts = session.scalars(select(BlobPartRecord.sha256).where(BlobPartRecord.manifest_sha256.in_(digests)))
    kept: dict[str, list[str]] = defaultdict(list)
    for sha256 in sorted({*digests, *parts}):
        owner = _find_owner(session, sha256)
        if owner is not None:
            kept[owner[1]].append(sha256)
    return Freed(frees_bytes, tuple(_sentence(session, name, kept[name]) for name in sorted(kept)))


def _find_owner(session: Session, sha256: str) -> tuple[str, str] | None:
    """Give what the blob is to one record that refers to it, such as "a file of ", and that record's name."""
    row = session.execute(_OWNER, {"sha256": sha256}).one_or_none()
    return None if row is None else (row.role, row.name)


def _sentence(session: Session, name: str, digests: Collection[str]) -> str:
    sizes = session.scalars(select(BlobRecord.bytes).where(BlobRecord.sha256.in_(digests)))
    return f"{sum(size_bytes or 0 for size_bytes in sizes):,} bytes stay: {name} needs them too"
