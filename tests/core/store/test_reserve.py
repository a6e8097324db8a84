"""Deleting on a full disk: a real file system of two megabytes, filled to the last block."""

import subprocess
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest

from core.errors import StorageFull
from core.store import files, migrate
from core.store.db import Database
from core.store.references.collector import Collector
from core.store.references.recorded import open_recorded
from core.store.reserve import RESERVED_BYTES, Reserve
from tests.core.store.references.deployment import StoreInUse


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    size = f"size={3 * RESERVED_BYTES}"
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        file.writelines(repeat(b"x" * 4096))


@pytest.fixture
def full(disk: Path) -> Iterator[StoreInUse]:
    """A deployment with a few files, on a disk without a free block."""
    url = f"sqlite:///{disk / 'loramill.db'}"
    migrate.upgrade(url)
    database = Database(url)
    deployment = StoreInUse(database, open_recorded(disk / "store", database))
    for number in range(3):
        deployment.upload(b"content %d" % number)
    database.keep_reserve()
    fill(disk)
    yield deployment
    database.dispose()


def test_a_full_disk_takes_no_other_writes(full: StoreInUse) -> None:
    with pytest.raises(StorageFull):
        full.upload(b"one more")


def test_records_are_deleted_and_bytes_are_freed_on_a_full_disk(full: StoreInUse, disk: Path) -> None:
    for file_id in full.file_ids():
        full.database.write_freeing(partial(files.delete, file_id=file_id))
    freed = Collector(full.database, full.blobs, grace_s=0).collect()
    assert len(freed) == 3
    assert full.objects() == set()


def test_without_the_reserve_it_is_said_that_the_disk_is_full(full: StoreInUse, disk: Path) -> None:
    (disk / "loramill.db.reserve").unlink()
    fill(disk)
    with pytest.raises(StorageFull):
        full.database.write_freeing(lambda session: files.delete(session, full.file_ids()[0]))
    assert len(full.file_ids()) == 3


def test_the_reserve_is_not_taken_where_there_is_little_room(disk: Path) -> None:
    reserve = Reserve(disk / "reserve")
    reserve.keep()
    assert (disk / "reserve").stat().st_blocks * 512 == RESERVED_BYTES
    assert reserve.spend()
    assert not reserve.spend()
    (disk / "filler").write_bytes(b"x" * (3 * RESERVED_BYTES // 2))
    reserve.keep()
    assert not reserve.spend()
