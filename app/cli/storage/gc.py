"""`loramill gc`: frees the stored bytes that nothing refers to, or says what it would free; the audit beside it."""

import json
from typing import Final

import typer

from app.cli.columns import align
from core.settings import Settings
from core.store.db import Database
from core.store.references.audit import audit, record
from core.store.references.collector import Collector, Unreferenced
from core.store.references.recorded import open_recorded
from core.store.revisions import check_schema

REPAIR_AGE_S: Final = 7 * 24 * 60 * 60  # younger ones could be of a database that is being restored
_WAIT_S: Final = 60  # for a collection that another process runs


class StoreCleaner:
    """One deployment's store and database, and what the command does with them."""

    def __init__(self, settings: Settings, *, at_once: bool, as_json: bool) -> None:
        """Open both.

        Args:
            at_once: without the grace.

        Raises:
            SchemaMismatch, DatabaseUnavailable: the database cannot be used as it is.
        """
        check_schema(settings.database)
        self._database = Database(settings.database)
        self._blobs = open_recorded(settings.store_folder, self._database)
        self._grace_h = 0 if at_once else settings.gc_grace_h
        self._collector = Collector(self._database, self._blobs, self._grace_h * 3600)
        self._as_json = as_json

    def free(self, *, dry_run: bool) -> None:
        """Free what is due and say what it was; with ``dry_run`` only say it."""
        freed = self._collector.list_due() if dry_run else self._collector.collect(_WAIT_S)
        if not dry_run:
            self._database.keep_reserve()
        if self._as_json:
            total = {"blobs": len(freed), "bytes": _total(freed), "dry_run": dry_run}
            typer.echo(json.dumps(total | {"sha256": [blob.sha256 for blob in freed]}, indent=2))
            return
        if dry_run and freed:
            typer.echo(align([(blob.sha256, f"{blob.bytes:,} bytes") for blob in freed]))
        done = "would free" if dry_run else "freed"
        since = f"for {self._grace_h:g} h" if self._grace_h else "now"
        typer.echo(f"{done} {len(freed):,} blobs, {_total(freed):,} bytes: nothing refers to them {since}")

    def audit(self, *, repair: bool) -> bool:
        """Say how store and database differ, and mend what can be; tell whether nothing is left to mend."""
        found = audit(self._database, self._blobs)
        old = [orphan for orphan in found.orphans if orphan.age_s >= REPAIR_AGE_S]
        dropped: list[str] = []
        if repair:
            self._database.write_freeing(lambda session: record(session, found.unrecorded))
            dropped = self._collector.drop_orphans([orphan.sha256 for orphan in old])
        counts = {
            "absent": len(found.absent),
            "unrecorded": len(found.unrecorded),
            "orphans": len(found.orphans),
            "orphans_bytes": sum(orphan.bytes for orphan in found.orphans),
            "orphans_over_7_days": len(old),
            "repaired": len(dropped) + (len(found.unrecorded) if repair else 0),
        }
        if self._as_json:
            typer.echo(json.dumps(counts, indent=2))
        else:
            typer.echo(
                f"{counts['absent']:,} blobs are referred to and not stored; "
                f"{counts['unrecorded']:,} are referred to and have no row; "
                f"{counts['orphans']:,} ({counts['orphans_bytes']:,} bytes) are stored and nobody's, "
                f"{counts['orphans_over_7_days']:,} of them for over 7 days"
            )
            if repair:
                typer.echo(f"repaired {counts['repaired']:,}")
            elif found.unrecorded or old:
                typer.echo("--repair gives rows to the former, and deletes what is nobody's for over 7 days")
        return not found.absent and (repair or not (found.unrecorded or old))


def _total(blobs: list[Unreferenced]) -> int:
    return sum(blob.bytes for blob in blobs)
