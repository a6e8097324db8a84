"""Moves what a run made into the content-addressed store, and an adapter back: its files first, its manifest last.

An adapter is visible only when a database row names its manifest's digest, and a result file when one names
its own; writing those rows is ``worker.jobs.claim``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from core.errors import AdapterInvalid
from core.jobs.attempt import StoredAdapter
from core.serving.adapter_format import MANIFEST, MANIFEST_LIMIT_BYTES, digest_file, parse_manifest
from core.store.blobs import Blob, BlobStore


@dataclass(frozen=True)
class StoredResults:
    """A run's result file, whose record is yet to be written."""

    blob: Blob
    columns: tuple[str, ...]


def store_adapter(blobs: BlobStore, folder: Path) -> StoredAdapter:
    """Store an adapter's folder and give its identity; storing the same adapter again changes nothing.

    Raises:
        AdapterInvalid: the manifest is missing or malformed, or a file is not the one it names.
        StorageFull: the store has no room; what was stored is not referred to by anything.
        OSError: the store did not take it, or the folder cannot be read.
    """
    manifest_bytes = _read_manifest(folder)
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    files, size_bytes = parse_manifest(manifest_bytes).files, len(manifest_bytes)
    for name, expected in files.items():
        # asked first: that a file is missing must not be taken for a store that is away, nor the reverse
        if not (folder / name).is_file():
            raise AdapterInvalid(digest, f"{name} is missing")
        blob = blobs.put_file(folder / name)
        if blob.sha256 != expected.sha256:
            raise AdapterInvalid(digest, f"{name} is not the file its manifest names")
        size_bytes += blob.bytes
    blobs.put_bytes(manifest_bytes)
    return StoredAdapter(digest, size_bytes, tuple(file.sha256 for file in files.values()))


def require_whole(folder: Path, job_id: str) -> None:
    """Make sure that a folder holds a whole adapter of a job, every byte of it.

    Raises:
        AdapterInvalid: a file is missing or not the one its manifest names, or it is another job's.
        OSError: it cannot be read.
    """
    manifest_bytes = _read_manifest(folder)
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    manifest = parse_manifest(manifest_bytes)
    if manifest.job_id != job_id:
        raise AdapterInvalid(digest, f"it is of job {manifest.job_id}")
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or digest_file(folder / name) != expected:
            raise AdapterInvalid(digest, f"{name} is not the file its manifest names")


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise AdapterInvalid("", f"{MANIFEST} is missing") from error


def fetch_adapter(blobs: BlobStore, sha256: str, folder: Path) -> None:
    """Put a stored adapter into a new folder; whoever uses it there verifies it.

    Raises:
        BlobNotFound: a part of it is not stored.
        AdapterInvalid: its manifest is malformed.
    """
    with blobs.open(sha256) as file:
        manifest_bytes = file.read(MANIFEST_LIMIT_BYTES)
    folder.mkdir()
    for name, digest in parse_manifest(manifest_bytes).files.items():
        blobs.fetch(digest.sha256, folder / name)
    (folder / MANIFEST).write_bytes(manifest_bytes)


def store_results(blobs: BlobStore, path: Path) -> StoredResults:
    """Store the result file that a trainer left; storing it again changes nothing.

    Raises:
        StorageFull: the store has no room.
        OSError: the store did not take it, or the file cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n")
    return StoredResults(blobs.put_file(path), tuple(header.split(",")))
