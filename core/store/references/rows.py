"""The rows of stored content, and the protocol by which no writer loses bytes to a collector beside it.

A writer (1) touches the row, (2) puts the bytes, and (3) holds the row in the transaction that refers to it. A
collector frees only what was not touched for the grace and what nothing refers to, looked at again under a lock that
excludes `hold`. Who finds no live row at 3 begins again at 1. What refers to a blob is the view `blob_references`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from sqlalchemy import ColumnElement, exists, literal_column, select, update

from core.errors import BlobFreed
from core.store.blobs import Blob
from core.store.db import Session, insert_into
from core.store.tables import BLOB_REFERENCES, BlobPartRecord, BlobRecord, BlobState

_UNIX_NOW: Final = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)",
}


def database_now(session: Session) -> ColumnElement[int]:
    """Give the database's clock in whole Unix seconds: the only one that all writers and collectors share."""
    return literal_column(_UNIX_NOW[session.get_bind().dialect.name])


def touch(session: Session, blob: Blob) -> bool:
    """Say that this content is about to be stored, so that it stays for the grace; False while it is being deleted."""
    insert = insert_into(session, BlobRecord).values(
        sha256=blob.sha256, bytes=blob.bytes, state=BlobState.LIVE, touched_at=database_now(session)
    )
    touched = session.scalar(
        insert.on_conflict_do_update(
            index_elements=[BlobRecord.sha256],
            set_={"touched_at": insert.excluded.touched_at, "bytes": insert.excluded.bytes},
            where=BlobRecord.state == BlobState.LIVE,
        ).returning(BlobRecord.sha256)
    )
    return touched is not None


def hold(session: Session, exists: Callable[[str], bool], digests: Collection[str]) -> None:
    """Keep stored content from being collected until the transaction ends, which must refer to all of it.

    Args:
        exists: tells whether the store has content. It is asked under the lock: the row may be another
            writer's, who has not put the bytes yet.

    Raises:
        BlobFreed: it was collected since it was stored; store it again, and then refer to it.
    """
    wanted = sorted(set(digests))  # always in this order, so that no two writers wait for each other
    held = session.scalars(
        select(BlobRecord.sha256)
        .where(BlobRecord.sha256.in_(wanted), BlobRecord.state == BlobState.LIVE)
        .order_by(BlobRecord.sha256)
        .with_for_update(read=True)
    ).all()
    if len(held) < len(wanted) or not all(map(exists, wanted)):
        raise BlobFreed


def _is_referred_to(session: Session, sha256: str) -> bool:
    return bool(session.scalar(select(exists().where(BLOB_REFERENCES.c.sha256 == sha256))))


def add_parts(session: Session, manifest_sha256: str, parts: Iterable[str]) -> None:
    """Note the files that a manifest names; in the transaction that first refers to the manifest."""
    for sha256 in sorted(set(parts)):
        session.execute(
            insert_into(session, BlobPartRecord)
            .values(manifest_sha256=manifest_sha256, sha256=sha256)
            .on_conflict_do_nothing()
        )


def list_parts(session: Session, manifest_sha256: str) -> list[str]:
    """List the files that a manifest names; none for one from before they were noted."""
    return list(session.scalars(select(BlobPartRecord.sha256).where(BlobPartRecord.manifest_sha256 == manifest_sha256)))


def let_go(session: Session, digests: Collection[str]) -> int:
    """Begin the grace of content that a deleted record referred to; give the bytes that will be freed after it.

    Args:
        digests: of files or of manifests, whose parts go with them.
    """
    parts = select(BlobPartRecord.sha256).where(BlobPartRecord.manifest_sha256.in_(digests))
    wanted = {*digests, *session.scalars(parts)}
    if not wanted:
        return 0
    # locked before the question: of two records deleted at once, the second one sees that the first is gone
    locked = session.execute(
        select(BlobRecord.sha256, BlobRecord.bytes)
        .where(BlobRecord.sha256.in_(wanted), BlobRecord.state == BlobState.LIVE)
        .order_by(BlobRecord.sha256)  # as `hold`
        .with_for_update()
    ).all()
    # one question each, which ends at the first reference: all adapters of a shape share a file
    leaving = {sha256: size_bytes or 0 for sha256, size_bytes in locked if not _is_referred_to(session, sha256)}
    session.execute(
        update(BlobRecord)
        .where(BlobRecord.sha256.in_(leaving))
        .values(touched_at=database_now(session))
        .execution_options(synchronize_session=False)
    )
    return sum(leaving.values())
