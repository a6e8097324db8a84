"""Content-addressed bytes: uploaded files and adapters, each under its own SHA-256, which every read is held against.

Knows neither what the bytes mean nor who refers to them: that is ``core.store.references``, which is told of each
blob before it is stored, and alone deletes.
"""

import errno
import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog
from filelock import FileLock, Timeout

from core.errors import BlobDamaged, BlobNotFound, CollectionRuns, StorageFull
from core.process.durability import wait_for_disk

_CHUNK_BYTES = 2**20
_OPENING_S: Final = 60  # far longer than a writer takes from making its part to locking it
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Blob:
    """Stored content: the lower-case hex SHA-256 that names it, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StoredObject:
    """What lies in the store under a digest, whether or not the bytes still have it."""

    sha256: str
    bytes: int
    age_s: float  # since it was last stored


class BlobWriter(Protocol):
    """Takes content piece by piece; nothing of it is visible before `commit`."""

    def write(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            StorageFull: the disk did not take it.
        """
        ...

    def commit(self) -> Blob:
        """Make the content durable and visible; content that is already stored is kept once, in these bytes.

        Raises:
            StorageFull: the disk did not take the last of it; nothing is visible.
            BlobFreed, DatabaseUnavailable: as whoever is told of each blob raises them; nothing is visible.
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

        All of it is read and held against its digest first: whoever reads a part of it, or passes it on while
        it is read, could not take back at the end what was wrong at the beginning.

        Raises:
            BlobNotFound: it is not stored.
            BlobDamaged: what is stored is something else by now.
        """
        ...

    def open_unchecked(self, sha256: str) -> BinaryIO:
        """As `open`, for a reader that itself holds every byte against the digest before it uses any.

        Raises:
            BlobNotFound: it is not stored.
        """
        ...

    def fetch(self, sha256: str, target: Path) -> None:
        """Put a private copy at ``target``: changing the copy changes nothing in the store.

        Raises:
            BlobNotFound: the content is not stored.
            BlobDamaged: what is stored is something else by now; nothing is put there.
            StorageFull: there is no room for the copy.
        """
        ...

    def exists(self, sha256: str) -> bool: ...

    def list_objects(self) -> Iterator[StoredObject]:
        """List what is stored, in no order."""
        ...

    def alone(self, wait_s: float) -> AbstractContextManager[None]:
        """Be the only one who deletes; the kernel takes this back from a process that dies.

        Raises:
            CollectionRuns: another process still is after so long.
        """
        ...

    def delete(self, sha256: str) -> None:
        """Drop content; dropping what is not there does nothing. Open readers can read on. Only within `alone`."""
        ...

    def sweep_incoming(self, older_than_s: float) -> int:
        """Drop writes whose writers died, or that have not grown for so long, and say how many there were."""
        ...


class LocalBlobStore:
    """A `BlobStore` in a folder of a local file system: ``incoming/`` while written, then ``blobs/ab/<sha256>``."""

    def __init__(self, folder: Path, announce: Callable[[Blob], None] | None = None) -> None:
        """Open a store, made where there is none.

        Args:
            announce: called with each blob before its bytes are stored, which it may refuse by raising. None: no
                database counts what refers to this store's content, or nothing is written to it here.
        """
        self._incoming = folder / "incoming"
        self._blobs = folder / "blobs"
        self._lock = folder / "collecting.lock"
        self._announce = announce or _tell_nobody
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(exist_ok=True)

    @contextmanager
    def write(self) -> Iterator[BlobWriter]:
        with refusing_when_full():
            writer = _LocalBlobWriter(self._incoming / f"{uuid.uuid4().hex}.part", self._blobs, self._announce)
        try:
            yield writer
        finally:
            writer.drop()

    def put_file(self, path: Path) -> Blob:
        with path.open("rb") as source, self.write() as writer:
            for chunk in _chunks_of(source):
                writer.write(chunk)
            return writer.commit()

    def put_bytes(self, data: bytes) -> Blob:
        with self.write() as writer:
            writer.write(data)
            return writer.commit()

    def open(self, sha256: str) -> BinaryIO:
        file = self.open_unchecked(sha256)
        try:
            digest = hashlib.sha256()
            for chunk in _chunks_of(file):
                digest.update(chunk)
            _hold_against(digest.hexdigest(), sha256)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def open_unchecked(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobNotFound(sha256) from None

    def fetch(self, sha256: str, target: Path) -> None:
        # A hard link would be quicker, but a reader that writes to it would change the store.
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        with self.open_unchecked(sha256) as source, refusing_when_full():
            try:
                with part.open("xb") as copy:
                    for chunk in _chunks_of(source):
                        digest.update(chunk)
                        copy.write(chunk)
                _hold_against(digest.hexdigest(), sha256)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        return _DIGEST.fullmatch(sha256) is not None and self._path(sha256).exists()

    def list_objects(self) -> Iterator[StoredObject]:
        now = time.time()
        for path in self._blobs.glob("??/*"):
            try:
                found = path.stat()
            except FileNotFoundError:  # it was deleted since the folder was read
                continue
            if _DIGEST.fullmatch(path.name):
                yield StoredObject(path.name, found.st_size, now - found.st_mtime)

    @contextmanager
    def alone(self, wait_s: float) -> Iterator[None]:
        try:
            lock = FileLock(self._lock, timeout=wait_s).acquire()
        except Timeout as error:
            raise CollectionRuns from error
        with lock:
            yield

    def delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def sweep_incoming(self, older_than_s: float) -> int:
        now = time.time()
        dropped = 0
        for part in self._incoming.iterdir():
            try:
                age_s = now - part.stat().st_mtime
                if age_s >= older_than_s or (age_s >= _OPENING_S and not _is_locked(part)):
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
    def __init__(self, part: Path, blobs: Path, announce: Callable[[Blob], None]) -> None:
        self._part = part
        self._blobs = blobs
        self._announce = announce
        self._file = part.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with this process, however it ends
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with refusing_when_full():
            while rest:  # a raw file may take less than it is given
                rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self._bytes += len(data)

    def commit(self) -> Blob:
        blob = Blob(self._hash.hexdigest(), self._bytes)
        self._announce(blob)
        folder = self._blobs / blob.sha256[:2]
        with refusing_when_full():
            os.fsync(self._file.fileno())
            self._file.close()
            folder.mkdir(exist_ok=True)
            self._part.replace(folder / blob.sha256)
            wait_for_disk(folder)
            wait_for_disk(self._blobs)
        return blob

    def drop(self) -> None:
        """Close and remove what was not committed; after a commit there is nothing left to remove."""
        self._file.close()
        self._part.unlink(missing_ok=True)


@contextmanager
def said_of(what: str) -> Iterator[None]:
    """Let a `BlobDamaged` that is raised within say whose the bytes are, such as "file file-abc"."""
    try:
        yield
    except BlobDamaged as error:
        raise BlobDamaged(error.sha256, what) from error


@contextmanager
def refusing_when_full() -> Iterator[None]:
    """Tell a full disk by an error of ours.

    Raises:
        StorageFull: the disk did not take what was written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull from error
        raise


def _tell_nobody(blob: Blob) -> None:
    """Stand for `announce` where nobody counts."""


def _chunks_of(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _hold_against(found: str, sha256: str) -> None:
    if found != sha256:
        _log.error("stored bytes have changed", sha256=sha256, found_sha256=found)
        raise BlobDamaged(sha256)


def _is_locked(part: Path) -> bool:
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
