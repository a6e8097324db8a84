"""Store against database: what is referred to and not there, what is there and nobody's, what has changed.

Reads everything, mends only what it is told to, and deletes nothing by itself.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import select

from core.errors import BlobDamaged, BlobNotFound
from core.store.blobs import BlobStore, StoredObject
from core.store.db import Database, Session, insert_into
from core.store.references.rows import database_now
from core.store.tables import BLOB_REFERENCES, BlobRecord, BlobState


@dataclass(frozen=True)
class Audit:
    """How store and database differ."""

    orphans: tuple[StoredObject, ...]  # stored, and neither a row nor a record knows them
    unrecorded: tuple[StoredObject, ...]  # stored and referred to, without a row: never freed
    absent: tuple[str, ...]  # referred to, and not stored


def audit(database: Database, blobs: BlobStore) -> Audit:
    """Compare what is stored with what is recorded; no byte of the content is read.

    Raises:
        DatabaseUnavailable: the database was busy or unreachable.
        DatabaseDamaged: it cannot be read.
    """
    # in this order: whoever stores writes the row first
    objects = list(blobs.list_objects())
    with database.read() as session:
        rows = set(session.scalars(select(BlobRecord.sha256)))
        referenced = set(session.scalars(select(BLOB_REFERENCES.c.sha256)))
    without_row = [found for found in objects if found.sha256 not in rows and blobs.exists(found.sha256)]
    return Audit(
        orphans=tuple(found for found in without_row if found.sha256 not in referenced),
        unrecorded=tuple(found for found in without_row if found.sha256 in referenced),
        absent=tuple(sorted(sha256 for sha256 in referenced if not blobs.exists(sha256))),
    )


def record(session: Session, unrecorded: Collection[StoredObject]) -> None:
    """Give rows to stored content that is referred to, so that it can be freed one day."""
    for found in sorted(unrecorded, key=lambda found: found.sha256):
        session.execute(
            insert_into(session, BlobRecord)
            .values(sha256=found.sha256, bytes=found.bytes, state=BlobState.LIVE, touched_at=database_now(session))
            .on_conflict_do_nothing()
        )


def list_damaged(blobs: BlobStore) -> Iterator[tuple[StoredObject, bool]]:
    """Read every stored blob, and tell of each whether its bytes have changed."""
    for found in blobs.list_objects():
        try:
            blobs.open(found.sha256).close()
        except BlobDamaged:
            yield found, True
        except BlobNotFound:  # freed since it was listed
            continue
        else:
            yield found, False
