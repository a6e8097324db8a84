"""`loramill doctor --deep`: reads every stored byte and the whole database, and holds them against each other.

Changes nothing, and takes as long as reading the store does. What can be mended is `loramill gc --audit`'s.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from app.cli.checks.check_result import CheckResult, Status
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from core.store.db import Database, sqlite_file
from core.store.integrity import attempted, check_integrity
from core.store.references.audit import audit, list_damaged
from core.store.references.owners import owners_of

_NAMED: Final = 10  # digests in one line
_RESTORE: Final = "restore them from a backup, or upload the same files again"


def check_stored_bytes(settings: Settings) -> CheckResult:
    """Every stored blob against its digest."""
    if not settings.store_folder.exists():
        return CheckResult(Status.OK, "nothing is stored yet")
    verdicts = list(list_damaged(LocalBlobStore(settings.store_folder)))
    size_bytes = sum(found.bytes for found, _ in verdicts)
    damaged = [found.sha256 for found, is_damaged in verdicts if is_damaged]
    if not damaged:
        return CheckResult(Status.OK, f"{len(verdicts):,} blobs, {size_bytes:,} bytes, all with their digests")
    return CheckResult(
        Status.FAIL, f"{len(damaged):,} of {len(verdicts):,} blobs have changed: {_named(settings, damaged)}", _RESTORE
    )


def check_references(settings: Settings) -> CheckResult:
    """What the records refer to against what is stored, both ways."""
    if not _has_database(settings):
        return CheckResult(Status.OK, "no database yet")
    with _opened(settings) as database:
        found = attempted(lambda: audit(database, LocalBlobStore(settings.store_folder)))
    if isinstance(found, str):
        return CheckResult(Status.FAIL, f"the database cannot be read: {found}", "restore it from a backup")
    if found.absent:
        absent = _named(settings, found.absent)
        return CheckResult(
            Status.FAIL, f"{len(found.absent):,} blobs are referred to and not stored: {absent}", _RESTORE
        )
    if found.unrecorded or found.orphans:
        return CheckResult(
            Status.WARNING,
            f"{len(found.unrecorded):,} blobs are referred to and have no row; {len(found.orphans):,}, "
            f"{sum(orphan.bytes for orphan in found.orphans):,} bytes, are stored and nobody's",
            "`loramill gc --audit --repair`",
        )
    return CheckResult(Status.OK, "everything that is referred to is stored, and everything stored is recorded")


def check_whole_database(settings: Settings) -> CheckResult:
    """The database by its own means, its foreign keys, and the digests in its rows."""
    if not _has_database(settings):
        return CheckResult(Status.OK, "no database yet")
    with _opened(settings) as database:
        found = check_integrity(database)
    limits = f" ({found.limits})" if found.limits else ""
    if found.problems:
        more = f"; and {len(found.problems) - _NAMED:,} more" if len(found.problems) > _NAMED else ""
        said = "; ".join(found.problems[:_NAMED]).replace("\n", " ")
        return CheckResult(Status.FAIL, f"{said}{more}{limits}", "stop Loramill and restore it from a backup")
    return CheckResult(Status.OK, f"whole{limits}")


def _named(settings: Settings, digests: list[str] | tuple[str, ...]) -> str:
    """Name blobs by what refers to them, where the database still says."""
    owners: dict[str, str] | str = {}
    if _has_database(settings):
        with _opened(settings) as database:
            owners = attempted(lambda: _owners(database, digests))
    known = owners if isinstance(owners, dict) else {}
    named = [f"{sha256[:12]} ({known.get(sha256, 'of no record')})" for sha256 in digests[:_NAMED]]
    more = f" and {len(digests) - _NAMED:,} more" if len(digests) > _NAMED else ""
    return ", ".join(named) + more


def _owners(database: Database, digests: list[str] | tuple[str, ...]) -> dict[str, str]:
    with database.read() as session:
        return owners_of(session, digests)


def _has_database(settings: Settings) -> bool:
    return not settings.database.startswith("sqlite") or sqlite_file(settings.database).exists()


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    try:
        yield database
    finally:
        database.dispose()


# the ids are part of the command's interface
DEEP_CHECKS: dict[str, Callable[[Settings], CheckResult]] = {
    "stored-bytes": check_stored_bytes,
    "references": check_references,
    "whole-database": check_whole_database,
}
