"""Content-addressed bytes: uploaded files and adapters, each under its own SHA-256.

Knows neither what the bytes mean nor who refers to them, and checks no digest when reading:
a reader that must not trust the disk hashes what it reads.
"""

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from core.errors import BlobNotFound, StorageFull

_CHUNK_BYTES = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Blob:
    """Stored content: the lower-case hex SHA-256 that names it, and its size."""

    sha256: str
    bytes: int


class BlobWriter(Protocol):
    """Takes content piece by piece; nothing of it is visible before `commit`."""

    def write(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            StorageFull: the disk did not take it.
        """
        ...

    def commit(self) -> Blob:
        """Make the content durable and visible; content that is already stored is kept once.

        Raises:
            StorageFull: the disk did not take the last of it; nothing is visible.
        """
        ...


class BlobStore(Protocol):
    """Bytes by digest. A digest that is not 64 lower-case hex digits is one that is not stored."""

    def write(self) -> AbstractContextManager[BlobWriter]:
        """Open a writer; leaving the context without `commit` drops what was written."""
        ...

    def put_file(self, path: Path) -> Blob:
        """Store a copy of a file's content."""
        ...

    def put_bytes(self, data: bytes) -> Blob:
        """Store content that is in memory."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """Open content for reading: a real file, seekable and with a descriptor that a process can inherit.

        Raises:
            BlobNotFound: it is not stored.
        """
        ...

    def fetch(self, sha256: str, target: Path) -> None:
        """Put a private copy at ``target``: changing the copy changes nothing in the store.

        Raises:
            BlobNotFound: the content is not stored.
            StorageFull: there is no room for the copy.
        """
        ...

    def exists(self, sha256: str) -> bool: ...

    def delete(self, sha256: str) -> None:
        """Drop content; dropping what is not there does nothing. Open readers can read on."""
        ...

    def sweep_incoming(self, older_than_s: float) -> int:
        """Drop writes that have not grown for so long, whose writers must have died, and say how many there were."""
        ...


class LocalBlobStore:
    """A `BlobStore` in a folder of a local file system: ``incoming/`` while written, then ``blobs/ab/<sha256>``."""

    def __init__(self, folder: Path) -> None:
        self._incoming = folder / "incoming"
        self._blobs = folder / "blobs"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(exist_ok=True)

    @contextmanager
    def write(self) -> Iterator[BlobWriter]:
        with _storage_full():
            writer = _LocalBlobWriter(self._incoming / f"{uuid.uuid4().hex}.part", self._blobs)
        try:
            yield writer
        finally:
            writer.drop()

    def put_file(self, path: Path) -> Blob:
        with path.open("rb") as source, self.write() as writer:
            while chunk := source.read(_CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def put_bytes(self, data: bytes) -> Blob:
        with self.write() as writer:
            writer.write(data)
            return writer.commit()

    def open(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobNotFound(sha256) from None

    def fetch(self, sha256: str, target: Path) -> None:
        # A hard link would be quicker, but a reader that writes to it would change the store.
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        with self.open(sha256) as source, _storage_full():
            try:
                with part.open("xb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK_BYTES)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        return _DIGEST.fullmatch(sha256) is not None and self._path(sha256).exists()

    def delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def sweep_incoming(self, older_than_s: float) -> int:
        oldest_kept = time.time() - older_than_s
        dropped = 0
        for part in self._incoming.iterdir():
            try:
                if part.stat().st_mtime <= oldest_kept:
                    part.unlink()
                    dropped += 1
            except FileNotFoundError:  # its writer has just committed or dropped it
                continue
        return dropped

    def _path(self, sha256: str) -> Path:
        # Digests come from requests too: only this check keeps them from naming other paths.
        if _DIGEST.fullmatch(sha256) is None:
            raise BlobNotFound(sha256)
        return self._blobs / sha256[:2] / sha256


class _LocalBlobWriter:
    def __init__(self, part: Path, blobs: Path) -> None:
        self._part = part
        self._blobs = blobs
        self._file = part.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with _storage_full():
            while rest:  # a raw file may take less than it is given
                rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self._bytes += len(data)

    def commit(self) -> Blob:
        sha256 = self._hash.hexdigest()
        folder = self._blobs / sha256[:2]
        with _storage_full():
            os.fsync(self._file.fileno())
            self._file.close()
            folder.mkdir(exist_ok=True)
            self._part.replace(folder / sha256)
            _fsync_folder(folder)
            _fsync_folder(self._blobs)
        return Blob(sha256, self._bytes)

    def drop(self) -> None:
        """Close and remove what was not committed; after a commit there is nothing left to remove."""
        self._file.close()
        self._part.unlink(missing_ok=True)


@contextmanager
def _storage_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull from error
        raise


def _fsync_folder(folder: Path) -> None:
    """Make a rename into the folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
