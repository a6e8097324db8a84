"""Blob stores over a real one that refuse, or wait, when a test says so."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from core.errors import StorageFull
from core.store.blobs import Blob, BlobStore, BlobWriter, StoredObject


class FaultyStore:
    """A `BlobStore` that hands all on to another; while ``is_full``, it takes nothing."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.is_full = False

    @contextmanager
    def write(self) -> Iterator[BlobWriter]:
        self._before("write")
        with self._store.write() as writer:
            yield writer

    def put_file(self, path: Path) -> Blob:
        self._before("put_file")
        return self._store.put_file(path)

    def put_bytes(self, data: bytes) -> Blob:
        self._before("put_bytes")
        return self._store.put_bytes(data)

    def open(self, sha256: str) -> BinaryIO:
        return self._store.open(sha256)

    def open_unchecked(self, sha256: str) -> BinaryIO:
        return self._store.open_unchecked(sha256)

    def fetch(self, sha256: str, target: Path) -> None:
        self._before("fetch")
        self._store.fetch(sha256, target)

    def exists(self, sha256: str) -> bool:
        return self._store.exists(sha256)

    def list_objects(self) -> Iterator[StoredObject]:
        return self._store.list_objects()

    def alone(self, wait_s: float) -> AbstractContextManager[None]:
        return self._store.alone(wait_s)

    def delete(self, sha256: str) -> None:
        self._store.delete(sha256)

    def sweep_incoming(self, older_than_s: float) -> int:
        return self._store.sweep_incoming(older_than_s)

    def _before(self, method: str) -> None:
        if self.is_full and method != "fetch":
            raise StorageFull


class SlowStore(FaultyStore):
    """A store whose ``slow`` method waits, each time that it is called, until the test lets it go on."""

    def __init__(self, store: BlobStore, slow: str) -> None:
        super().__init__(store)
        self._slow = slow
        self.is_waiting = threading.Event()
        self.may_go_on = threading.Event()

    def _before(self, method: str) -> None:
        super()._before(method)
        if method == self._slow and not self.may_go_on.is_set():
            self.is_waiting.set()
            assert self.may_go_on.wait(60), "the test let it wait for ever"
