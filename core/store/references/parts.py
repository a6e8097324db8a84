"""The parts of manifests from before they were noted: read from the store, once, by whoever has store and database.

Until all of a served adapter's are known, nothing may be freed: what it needs would look like nobody's.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import select, update

from core.errors import AdapterInvalid, BlobDamaged, BlobNotFound, PartsUnknown
from core.serving.adapter_format import MANIFEST_LIMIT_BYTES, Manifest, parse_manifest
from core.store.blobs import BlobStore
from core.store.db import Database, Session, insert_into
from core.store.references.rows import add_parts, database_now
from core.store.tables import (
    MANIFEST_REFERENCES,
    AdapterRecord,
    BlobPartRecord,
    BlobRecord,
    BlobState,
    CheckpointRecord,
)

_log = structlog.stdlib.get_logger(__name__)


def learn_parts(database: Database, blobs: BlobStore) -> None:
    """Note what older manifests name, so that it can be freed with them and not before; unreadable ones are left.

    Raises:
        DatabaseUnavailable: the database was busy or unreachable.
    """
    with database.read() as session:
        unknown = _list_unknown(session)
    for sha256 in unknown:
        try:
            with blobs.open(sha256) as file:
                content = file.read(MANIFEST_LIMIT_BYTES)
            manifest = parse_manifest(content)
        except (BlobNotFound, BlobDamaged, AdapterInvalid) as problem:
            _log.warning("parts of a manifest not learnt", manifest=sha256, reason=str(problem))
            continue
        with database.write() as session:
            _note(session, sha256, len(content), manifest)


def require_parts(session: Session) -> None:
    """Make sure that the parts of every manifest that something refers to are known.

    Raises:
        PartsUnknown: those of some are not.
    """
    known = select(BlobPartRecord.manifest_sha256)
    unknown = session.scalars(select(MANIFEST_REFERENCES.c.sha256).except_(known)).all()
    if unknown:
        raise PartsUnknown(tuple(sorted(unknown)))


def _list_unknown(session: Session) -> Sequence[str]:
    """List the manifests without parts that something refers to, or that deleted models have left."""
    made = select(AdapterRecord.adapter_sha256).union(select(CheckpointRecord.adapter_sha256))
    stored = select(BlobRecord.sha256).where(BlobRecord.state == BlobState.LIVE, BlobRecord.sha256.in_(made))
    known = set(session.scalars(select(BlobPartRecord.manifest_sha256)))
    return sorted({*session.scalars(stored), *session.scalars(select(MANIFEST_REFERENCES.c.sha256))} - known)


def _note(session: Session, sha256: str, size_bytes: int, manifest: Manifest) -> None:
    sizes = {sha256: size_bytes} | {file.sha256: file.bytes for file in manifest.files.values()}
    for name in sorted(sizes):  # in the order of `rows.hold`
        session.execute(
            insert_into(session, BlobRecord)
            .values(sha256=name, bytes=sizes[name], state=BlobState.LIVE, touched_at=database_now(session))
            .on_conflict_do_nothing()
        )
    add_parts(session, sha256, [file.sha256 for file in manifest.files.values()])
    session.execute(
        update(BlobRecord)
        .where(BlobRecord.sha256 == sha256)
        .values(bytes=size_bytes)
        .execution_options(synchronize_session=False)
    )
