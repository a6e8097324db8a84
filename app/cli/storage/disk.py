"""`loramill disk`: how many bytes a deployment has on this machine, by what they are for."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from app.cli.columns import align
from core.settings import Settings
from core.store.db import Database
from core.store.references.recorded import open_recorded
from core.store.retention.usage import DiskUsage, StoredFor, measure_database, measure_store
from core.store.revisions import check_schema

_MEANINGS: Final = {
    StoredFor.FILES: "uploaded files",
    StoredFor.RESULT_FILES: "files of jobs' results",
    StoredFor.MODELS: "adapters of fine-tuned models",
    StoredFor.CHECKPOINTS: "adapters of checkpoints",
    StoredFor.EXPORTS: "exports",
    StoredFor.UNFINISHED_JOBS: "adapters of deleted models that unfinished jobs need",
    StoredFor.WAITING: "nobody's, freed after LORAMILL_GC_GRACE_H",
    StoredFor.DUE: "nobody's, freed within the hour or by `loramill gc`",
    StoredFor.UNRECORDED: "known to no row: see `loramill gc --audit`",
}
_IN_HOME: Final = {
    "base-models": "imported base models",
    "runs": "run folders: checkpoints to resume from, specifications, logs of trainers",
    "kernels": "compiled kernels",
    "logs": "logs of `loramill up`",
}


@dataclass(frozen=True)
class _Row:
    kind: str
    usage: DiskUsage
    meaning: str


def report(settings: Settings, *, as_json: bool) -> None:
    """Print it as a table, or as one JSON document.

    Raises:
        SchemaMismatch, DatabaseUnavailable: the database cannot be used as it is.
    """
    check_schema(settings.database)
    rows, free_bytes = _measure(settings), shutil.disk_usage(settings.home).free
    total = sum(row.usage.bytes for row in rows)
    if as_json:
        kinds = {row.kind: {"bytes": row.usage.bytes, "files": row.usage.count} for row in rows}
        typer.echo(json.dumps({"kinds": kinds, "total_bytes": total, "free_bytes": free_bytes}, indent=2))
        return
    width = len(f"{max(total, free_bytes):,}")
    lines = [(row.kind, f"{row.usage.bytes:>{width},} bytes", row.meaning) for row in rows]
    lines += [("total", f"{total:>{width},} bytes", str(settings.home.absolute()))]
    lines += [("free", f"{free_bytes:>{width},} bytes", "on the disk that this is on")]
    typer.echo(align(lines))


def _measure(settings: Settings) -> list[_Row]:
    home = settings.home.absolute()
    database = Database(settings.database)
    try:
        stored = measure_store(database, open_recorded(settings.store_folder, database), settings.gc_grace_h * 3600)
        rows = [_Row(kind.value, usage, _MEANINGS[kind]) for kind, usage in stored.items()]
        rows.append(_Row("database", measure_database(database, settings.database), "rows and indexes"))
    finally:
        database.dispose()
    rows.append(_Row("incoming", _measure_folder(settings.store_folder / "incoming"), "uploads under way"))
    rows += [_Row(name, _measure_folder(home / name), meaning) for name, meaning in _IN_HOME.items()]
    counted = {*_IN_HOME, "store"}
    others = [path for path in home.iterdir() if path.name not in counted and path.is_dir() and not path.is_symlink()]
    rest = [_measure_folder(path) for path in others]
    other = DiskUsage(sum(each.count for each in rest), sum(each.bytes for each in rest))
    return [*rows, _Row("other", other, "tuning, references, the broker's files, adapters for vLLM")]


def _measure_folder(folder: Path) -> DiskUsage:
    """Count the files below a folder, one with several names once; links are not followed."""
    sizes = {(found.st_dev, found.st_ino): found.st_size for found in _stats(folder)}
    return DiskUsage(len(sizes), sum(sizes.values()))


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(parent, name).lstat()
            except FileNotFoundError:  # it has gone since its folder was read
                continue
