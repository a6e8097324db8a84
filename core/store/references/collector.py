"""Frees stored bytes that nothing has referred to for the grace, beside writers that store the same bytes.

(a) decides under locks that exclude a writer's `hold`, and commits that the row is being deleted; (b) deletes the
bytes; (c) deletes the row. One process at a time does this: between (a) and (c) a second one could finish for the
first, a writer store the same bytes anew, and the first then delete those. Whoever dies in between is finished by
the next.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, CompoundSelect, delete, select, update

from core.errors import CollectionRuns
from core.store.blobs import BlobStore
from core.store.db import Database, Session, insert_into
from core.store.references.parts import learn_parts, require_parts
from core.store.references.rows import database_now
from core.store.tables import BLOB_REFERENCES, BlobPartRecord, BlobRecord, BlobState

COLLECT_EVERY_S: Final = 60 * 60
_BATCH: Final = 200  # decided on in one transaction, for which writers of the same content have to wait


@dataclass(frozen=True)
class Unreferenced:
    """Stored content that nothing refers to; ``bytes`` is 0 for what an older version stored and nobody measured."""

    sha256: str
    bytes: int


class Collector:
    """One process's way to free bytes. Safe beside any number of others, and of writers."""

    def __init__(self, database: Database, blobs: BlobStore, grace_s: float) -> None:
        self._database = database
        self._blobs = blobs
        self._grace_s = int(grace_s)

    def collect(self, wait_s: float = 0) -> list[Unreferenced]:
        """Free what nothing has referred to for the grace, and give it.

        Raises:
            CollectionRuns: another process was at it for longer than ``wait_s``.
            PartsUnknown: it is not known what the served adapters need; nothing was freed.
            DatabaseUnavailable: the database was away; the next collection goes on.
        """
        with self._blobs.alone(wait_s):
            self._finish()
            learn_parts(self._database, self._blobs)
            freed: list[Unreferenced] = []
            while batch := self._database.write_freeing(self._decide):
                self._finish()
                freed += batch
            return freed

    def list_due(self) -> list[Unreferenced]:
        """List what `collect` would free now, and free nothing.

        Raises:
            PartsUnknown: it is not known what the served adapters need.
            DatabaseUnavailable: the database was busy or unreachable.
        """
        learn_parts(self._database, self._blobs)
        with self._database.read() as session:
            require_parts(session)
            return _measured(session, session.scalars(self._due(session)).all())

    def finish_for_dead(self) -> None:
        """Finish what a collector that died has decided on: writers of the same content wait for it."""
        with self._database.read() as session:
            begun = session.scalar(select(BlobRecord.sha256).where(BlobRecord.state == BlobState.DELETING).limit(1))
        if begun is not None:
            try:
                with self._blobs.alone(wait_s=0):
                    self._finish()
            except CollectionRuns:
                return  # so it is alive

    def drop_orphans(self, orphans: Collection[str]) -> list[str]:
        """Delete stored content that has no row and that nothing refers to, and give what was deleted.

        Raises:
            CollectionRuns: another process is at it.
            DatabaseUnavailable: the database was away; the next collection goes on.
        """
        with self._blobs.alone(wait_s=0):
            dropped = self._database.write_freeing(lambda session: _mark_orphans(session, orphans))
            self._finish()
            return dropped

    def _due(self, session: Session) -> CompoundSelect[str]:
        old = select(BlobRecord.sha256).where(*self._is_old(session))
        return old.except_(select(BLOB_REFERENCES.c.sha256))

    def _is_old(self, session: Session) -> tuple[ColumnElement[bool], ...]:
        before = database_now(session) - self._grace_s
        return BlobRecord.state == BlobState.LIVE, BlobRecord.touched_at <= before

    def _decide(self, session: Session) -> list[Unreferenced]:
        """Mark some content as being deleted, if there is any to free. This is (a)."""
        require_parts(session)
        due = session.scalars(self._due(session).limit(_BATCH)).all()
        locked = session.scalars(
            select(BlobRecord.sha256)
            .where(BlobRecord.sha256.in_(due), *self._is_old(session))
            .with_for_update(skip_locked=True)
        ).all()
        # again: until the lock, a writer could hold a row and refer to it
        kept = session.scalars(select(BLOB_REFERENCES.c.sha256).where(BLOB_REFERENCES.c.sha256.in_(locked))).all()
        freed = sorted(set(locked) - set(kept))
        session.execute(
            update(BlobRecord)
            .where(BlobRecord.sha256.in_(freed))
            .values(state=BlobState.DELETING)
            .execution_options(synchronize_session=False)
        )
        return _measured(session, freed)

    def _finish(self) -> None:
        """Delete the bytes, then the rows, of all that is marked. These are (b) and (c)."""
        with self._database.read() as session:
            marked = session.scalars(select(BlobRecord.sha256).where(BlobRecord.state == BlobState.DELETING)).all()
        for sha256 in marked:
            self._blobs.delete(sha256)
        if marked:
            self._database.write_freeing(lambda session: _forget(session, marked))


def _mark_orphans(session: Session, orphans: Collection[str]) -> list[str]:
    """Give orphans a row that keeps writers of the same content away; not those that have one by now."""
    referenced = session.scalars(select(BLOB_REFERENCES.c.sha256).where(BLOB_REFERENCES.c.sha256.in_(orphans)))
    marked = []
    for sha256 in sorted(set(orphans) - set(referenced)):
        insert = insert_into(session, BlobRecord).values(
            sha256=sha256, state=BlobState.DELETING, touched_at=database_now(session)
        )
        if session.scalar(insert.on_conflict_do_nothing().returning(BlobRecord.sha256)):
            marked.append(sha256)
    return marked


def _forget(session: Session, deleted: Sequence[str]) -> None:
    session.execute(delete(BlobPartRecord).where(BlobPartRecord.manifest_sha256.in_(deleted)))
    session.execute(delete(BlobRecord).where(BlobRecord.sha256.in_(deleted)))


def _measured(session: Session, digests: Sequence[str]) -> list[Unreferenced]:
    rows = session.execute(
        select(BlobRecord.sha256, BlobRecord.bytes).where(BlobRecord.sha256.in_(digests)).order_by(BlobRecord.sha256)
    )
    return [Unreferenced(sha256, size_bytes or 0) for sha256, size_bytes in rows]
