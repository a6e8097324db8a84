import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import BlobDamaged, BlobNotFound, StorageFull
from core.store.blobs import Blob, BlobStore, LocalBlobStore

CONTENT = b"prompt and completion\n" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> BlobStore:
    return LocalBlobStore(folder)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _read(store: BlobStore, sha256: str) -> bytes:
    with store.open(sha256) as blob:
        return blob.read()


def test_content_is_found_under_its_sha256(store: BlobStore) -> None:
    assert store.put_bytes(CONTENT) == Blob(DIGEST, len(CONTENT))
    assert _read(store, DIGEST) == CONTENT
    assert store.exists(DIGEST)


def test_the_ways_to_write_agree(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with store.write() as writer:
        for piece in (CONTENT[:7], b"", CONTENT[7:]):
            writer.write(piece)
        written = writer.commit()
    assert written == store.put_file(source) == store.put_bytes(CONTENT)


def test_empty_content_can_be_stored(store: BlobStore) -> None:
    blob = store.put_bytes(b"")
    assert blob.bytes == 0
    assert _read(store, blob.sha256) == b""


def test_the_same_content_is_kept_once(store: BlobStore, folder: Path) -> None:
    store.put_bytes(CONTENT)
    store.put_bytes(CONTENT)
    assert len(_files(folder)) == 1


def test_content_is_not_visible_before_the_commit(store: BlobStore) -> None:
    with store.write() as writer:
        writer.write(CONTENT)
        assert not store.exists(DIGEST)
        writer.commit()
        assert store.exists(DIGEST)


def test_leaving_without_a_commit_leaves_nothing(store: BlobStore, folder: Path) -> None:
    with store.write() as writer:
        writer.write(CONTENT)
    assert _files(folder) == []
    assert not store.exists(DIGEST)


def test_an_exception_leaves_nothing(store: BlobStore, folder: Path) -> None:
    def fail_half_way() -> None:
        with store.write() as writer:
            writer.write(CONTENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert _files(folder) == []


def test_a_killed_writer_leaves_nothing_visible_and_is_swept(store: BlobStore, folder: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from core.store.blobs import LocalBlobStore\n"
        "with LocalBlobStore(Path(sys.argv[1])).write() as writer:\n"
        f"    writer.write({CONTENT!r})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    assert not store.exists(DIGEST)
    assert len(_files(folder)) == 1
    assert store.sweep_incoming(older_than_s=3600) == 0
    assert store.sweep_incoming(older_than_s=0) == 1
    assert _files(folder) == []


def test_a_sweep_takes_nothing_that_was_committed(store: BlobStore) -> None:
    store.put_bytes(CONTENT)
    assert store.sweep_incoming(older_than_s=0) == 0
    assert store.exists(DIGEST)


@pytest.mark.parametrize(
    "digest",
    ["", "0" * 64, "../" + DIGEST, DIGEST + "/../x", DIGEST[:63], DIGEST + "\n", DIGEST.upper(), "/etc/passwd"],
)
def test_what_is_not_stored_or_not_a_digest_is_not_found(store: BlobStore, tmp_path: Path, digest: str) -> None:
    store.put_bytes(CONTENT)
    with pytest.raises(BlobNotFound):
        store.open(digest)
    with pytest.raises(BlobNotFound):
        store.fetch(digest, tmp_path / "copy")
    assert not store.exists(digest)


def test_deleting_by_a_path_is_refused(store: BlobStore, folder: Path) -> None:
    precious = folder / "blobs" / "precious"
    precious.write_text("keep")
    with pytest.raises(BlobNotFound):
        store.delete("../precious")
    assert precious.exists()


def test_deleted_content_is_gone_and_deleting_again_does_nothing(store: BlobStore) -> None:
    store.put_bytes(CONTENT)
    with store.open(DIGEST) as reader:
        store.delete(DIGEST)
        store.delete(DIGEST)
        assert reader.read() == CONTENT  # who reads already can go on
    assert not store.exists(DIGEST)


def test_changing_a_fetched_copy_changes_nothing_in_the_store(store: BlobStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    copy = tmp_path / "copy"
    store.fetch(DIGEST, copy)
    assert copy.read_bytes() == CONTENT
    with copy.open("r+b") as file:
        file.write(b"XXXX")
    assert _read(store, DIGEST) == CONTENT


def test_a_fetch_replaces_what_lay_there(store: BlobStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    copy = tmp_path / "copy"
    copy.write_bytes(b"half of it")
    store.fetch(DIGEST, copy)
    assert copy.read_bytes() == CONTENT


class TestChangedBytes:
    @pytest.fixture(params=[0, len(CONTENT) // 2, len(CONTENT) - 1])
    def path(self, store: BlobStore, folder: Path, request: pytest.FixtureRequest) -> Path:
        """A stored blob in which one bit has changed."""
        store.put_bytes(CONTENT)
        path = folder / "blobs" / DIGEST[:2] / DIGEST
        content = bytearray(CONTENT)
        content[request.param] ^= 0x10
        path.write_bytes(content)
        return path

    def test_are_not_opened(self, store: BlobStore, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(BlobDamaged, match=DIGEST) as refused:
            store.open(DIGEST)
        assert str(path.parent) not in str(refused.value)
        assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("blob_damaged", 503, None)
        assert "stored bytes have changed" in capsys.readouterr().out

    def test_are_not_fetched(self, store: BlobStore, path: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        with pytest.raises(BlobDamaged):
            store.fetch(DIGEST, tmp_path / "run" / "training_file")
        assert list((tmp_path / "run").iterdir()) == []

    def test_are_given_to_whoever_checks_them_itself(self, store: BlobStore, path: Path) -> None:
        with store.open_unchecked(DIGEST) as file:
            assert file.read() == path.read_bytes()

    def test_are_mended_by_storing_the_same_again(self, store: BlobStore, path: Path) -> None:
        store.put_bytes(CONTENT)
        assert _read(store, DIGEST) == CONTENT

    def test_that_were_cut_off_are_noticed(self, store: BlobStore, path: Path) -> None:
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(BlobDamaged):
            store.open(DIGEST)


def test_a_full_disk_is_reported_and_nothing_is_kept(tiny_disk: Path) -> None:
    store = LocalBlobStore(tiny_disk)
    store.put_bytes(CONTENT)
    with pytest.raises(StorageFull):
        store.put_bytes(os.urandom(2 * 2**20))
    assert len(_files(tiny_disk)) == 1
    assert _read(store, DIGEST) == CONTENT
    assert store.put_bytes(b"small enough").bytes == 12


def test_a_fetch_to_a_full_disk_is_reported_and_leaves_nothing(store: BlobStore, tiny_disk: Path) -> None:
    blob = store.put_bytes(os.urandom(2 * 2**20))
    with pytest.raises(StorageFull):
        store.fetch(blob.sha256, tiny_disk / "copy")
    assert _files(tiny_disk) == []


def test_other_failures_of_the_disk_are_not_called_a_full_disk(tiny_disk: Path) -> None:
    store = LocalBlobStore(tiny_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(OSError, match="Read-only") as refused:
        store.put_bytes(CONTENT)
    assert refused.value.errno == errno.EROFS
