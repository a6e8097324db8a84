"""The files in an archive that may have been made to deceive: tar, tar under gzip, or zip.

Nothing of it is ever written under a name that it gives. Names that lead elsewhere, names that stand twice, links,
devices and what is not a plain file refuse the whole archive; sizes are bounded as declared and again as they are read.
What the files are is not known here.
"""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, BinaryIO, Final

from core.errors import ImportRefused
from core.serving.strict_json import shown

MAX_MEMBERS: Final = 1024
# Of one read: a reader of archives reads a tar's long names and a zip's whole directory at once, however large.
MAX_READ_BYTES: Final = 2**20
_CHUNK_BYTES: Final = 2**18
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")  # the second: of an empty one
_GZIP: Final = b"\x1f\x8b"
_TAR_AT: Final = 257
_TAR: Final = b"ustar"
_MALFORMED: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # zipfile's, of what it cannot unpack
    UnicodeDecodeError,  # of a name
)


Content = IO[bytes]  # a class with a field of that name cannot say it


@dataclass(frozen=True)
class ArchivedFile:
    """A plain file. ``bytes`` is what is declared of it; ``open`` begins to read, and gives no more than that."""

    name: str
    bytes: int
    open: Callable[[], Content]


def is_archive(file: BinaryIO) -> bool:
    """Tell by the first bytes whether a file is one of the archives that can be read here."""
    head = _head_of(file)
    return head.startswith((*_ZIP, _GZIP)) or head[_TAR_AT:].startswith(_TAR)


def list_files(file: BinaryIO, scratch: Callable[[], BinaryIO], limit_bytes: int) -> list[ArchivedFile]:
    """List the plain files of an archive by their paths in it; they are read out of ``file``, which stays open.

    Args:
        scratch: gives a new file, which a gzip is unpacked to.
        limit_bytes: of all its files together, and of what a gzip becomes.

    Raises:
        ImportRefused: it is no archive, malformed, too large, or holds something else than plain files.
    """
    with refusing_malformed():
        head = _head_of(file)
        if head.startswith(_GZIP):
            file = _unzip(file, scratch(), limit_bytes)
            head = _head_of(file)
        reader = _SmallReads(file)
        if head.startswith(_ZIP):
            return _checked(_zip_members(reader), limit_bytes)
        if head[_TAR_AT:].startswith(_TAR):
            return _checked(_tar_members(reader), limit_bytes)
    raise ImportRefused("it is neither a tar, a tar.gz, a zip nor one of an adapter's own files")


@contextmanager
def refusing_malformed() -> Iterator[None]:
    """Refuse an archive for what its reader raises of it, while it is listed or one of its files is read.

    Raises:
        ImportRefused: it is malformed.
    """
    try:
        yield
    except _MALFORMED as error:
        raise ImportRefused(
            f"the archive is damaged, or of a kind that is not read here: {shown(str(error))}"
        ) from error


class _SmallReads(io.RawIOBase):
    """A file of which no read takes much memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < 0:
            raise ImportRefused("the archive names a place before its beginning")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        most = MAX_READ_BYTES + 1
        content = self._file.read(most if size is None or size < 0 else min(size, most))
        if len(content) > MAX_READ_BYTES:
            raise ImportRefused("the archive's directory, or a name in it, is larger than an adapter's can be")
        return content


def _head_of(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(_TAR_AT + len(_TAR))
    file.seek(0)
    return head


def _unzip(packed: BinaryIO, unpacked: BinaryIO, limit_bytes: int) -> BinaryIO:
    left_bytes = limit_bytes
    with gzip.GzipFile(fileobj=packed) as content:
        while chunk := content.read(_CHUNK_BYTES):
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise _too_large(limit_bytes)
            unpacked.write(chunk)
    return unpacked


def _checked(members: Iterable[ArchivedFile | None], limit_bytes: int) -> list[ArchivedFile]:
    """Give the files, folders left out."""
    files: dict[str, ArchivedFile] = {}
    left_bytes = limit_bytes
    for count, member in enumerate(members, start=1):
        if count > MAX_MEMBERS:
            raise ImportRefused(f"the archive has more than {MAX_MEMBERS:,} members")
        if member is None:
            continue
        if member.name in files:
            raise ImportRefused(f"the archive has {shown(member.name)} twice")
        left_bytes -= member.bytes
        if left_bytes < 0:
            raise _too_large(limit_bytes)
        files[member.name] = member
    return list(files.values())


def _tar_members(file: "_SmallReads") -> Iterator[ArchivedFile | None]:
    tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - its files are read after this; it holds nothing else
    for member in tar:
        name = _plain_name(member.name)
        if member.isdir():
            yield None
        elif member.isreg() and not member.issparse():
            yield ArchivedFile(name, member.size, partial(_open_in_tar, tar, member))
        else:
            raise ImportRefused(f"{shown(name)} in the archive is a link, a device or no plain file")


def _open_in_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "a plain file has content"
    return content


def _zip_members(file: "_SmallReads") -> Iterator[ArchivedFile | None]:
    packed = zipfile.ZipFile(file)  # as above
    for member in packed.infolist():
        name = _plain_name(member.orig_filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ImportRefused(f"{shown(name)} in the archive is a link, a device or no plain file")
        if member.flag_bits & 1:
            raise ImportRefused(f"{shown(name)} in the archive is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImportRefused(f"{shown(name)} in the archive is packed in another way than deflate")
        yield None if member.is_dir() else ArchivedFile(name, member.file_size, partial(packed.open, member))


def _plain_name(name: str) -> str:
    """Give a member's path without needless parts, if it stays in its folder on every system."""
    parts = [part for part in name.rstrip("/").split("/") if part != "."]
    leads_away = name.startswith("/") or ".." in parts or "" in parts or name[1:2] == ":"
    if leads_away or "\\" in name or "\0" in name:
        raise ImportRefused(f"{shown(name)} in the archive is no plain relative path")
    return "/".join(parts)


def _too_large(limit_bytes: int) -> ImportRefused:
    return ImportRefused(
        f"the archive's files are larger than {limit_bytes:,} bytes together; raise LORAMILL_MAX_UPLOAD_BYTES"
    )
