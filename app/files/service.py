"""What an uploaded file means: checked, stored by content, recorded with what was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from app.files.isolated_check import check_isolated
from core.errors import FileTooLarge, InvalidParameter, UnsupportedParameter
from core.settings import Settings
from core.store import files
from core.store.blobs import Blob, BlobStore, BlobWriter, said_of
from core.store.db import Database, Session
from core.store.references.rows import hold
from core.store.tables import FileRecord, FileStatus
from core.text.files.file_check import FileReport, LineChecker, check_file
from core.text.files.file_type import HEAD_BYTES, FileType
from core.text.files.read import file_type_of

PURPOSE: Final = "fine-tune"
_MAX_FILENAME_CHARS: Final = 255


@dataclass(frozen=True)
class Received:
    """A file whose bytes are stored and checked, but which no record names yet."""

    filename: str
    file_type: FileType
    blob: Blob
    report: FileReport


class Upload:
    """Takes one file's bytes. Blocking: it writes to disk and parses, so it belongs into a worker thread."""

    def __init__(self, writer: BlobWriter, blobs: BlobStore, settings: Settings) -> None:
        self._writer = writer
        self._blobs = blobs
        self._limit_bytes = settings.max_upload_bytes
        self._max_line_bytes = settings.max_line_bytes
        self._filename = ""
        self._head = b""
        self._file_type: FileType | None = None  # not known before its first bytes
        self._lines: LineChecker | None = None  # None: the file is checked when all of it is there
        self._received_bytes = 0

    def begin(self, filename: str) -> None:
        """Take the file's name, which tells its type."""
        self._filename = _clean(filename)

    def write(self, data: bytes) -> None:
        """Take the file's next bytes.

        Raises:
            FileTooLarge: these exceed the limit.
            FileTypeUnclear: the first bytes are not those of the type that the name tells.
            ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
            StorageFull: the disk did not take them.
        """
        self._received_bytes += len(data)
        if self._received_bytes > self._limit_bytes:
            raise FileTooLarge(self._limit_bytes)
        self._writer.write(data)
        if self._file_type is None:
            self._head += data
            if len(self._head) >= HEAD_BYTES:
                self._settle_type()
        elif self._lines is not None:
            self._lines.feed(data)

    def finish(self) -> Received:
        """Make the bytes durable and report on them.

        Raises:
            FileTypeUnclear: the bytes are not those of the type that the name tells.
            ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
            StorageFull: the disk did not take the last of them.
        """
        file_type = self._file_type or self._settle_type()
        blob = self._writer.commit()
        return Received(self._filename, file_type, blob, self._check(file_type, blob))

    def _settle_type(self) -> FileType:
        """Learn the file's type from what there is of it by now, and begin to check what can be checked already."""
        self._file_type = file_type = file_type_of(self._filename, self._head)
        if file_type.require is not None:
            file_type.require()  # rather than receive in vain what cannot be checked
        if file_type.line_reader is not None:
            self._lines = LineChecker(file_type.line_reader, self._max_line_bytes)
            self._lines.feed(self._head)
        self._head = b""
        return file_type

    def _check(self, file_type: FileType, blob: Blob) -> FileReport:
        if self._lines is not None:
            return self._lines.finish()
        check = check_isolated if file_type.needs_own_process else check_file
        with self._blobs.open(blob.sha256) as content:
            return check(content, file_type, self._max_line_bytes)


@contextmanager
def receive(blobs: BlobStore, settings: Settings) -> Iterator[Upload]:
    """Open an upload; unless it was finished, leaving the context drops its bytes."""
    with blobs.write() as writer:
        yield Upload(writer, blobs, settings)


def check_fields(fields: dict[str, str]) -> None:
    """Refuse an upload by the form's fields beside the file.

    Raises:
        InvalidParameter: ``purpose`` is missing or is not "fine-tune".
        UnsupportedParameter: any other field, such as ``expires_after``.
    """
    for name in fields.keys() - {"purpose"}:
        raise UnsupportedParameter(name.partition("[")[0])
    if fields.get("purpose") != PURPOSE:
        raise InvalidParameter("purpose", f'must be "{PURPOSE}", the only purpose that files serve here')


def record(session: Session, blobs: BlobStore, received: Received, *, caller: str, now: int) -> FileRecord:
    """Record a received file; one with problems is kept too, with status "error" and the lines at fault.

    Raises:
        BlobFreed: the same content was being freed at this moment.
    """
    report = received.report
    new = files.NewFile(
        caller=caller,
        filename=received.filename,
        purpose=PURPOSE,
        blob=received.blob,
        file_type=received.file_type.name,
        status=FileStatus.ERROR if report.problem_count else FileStatus.PROCESSED,
        status_details=_details(report),
        example_format=report.format,
        columns=report.columns,
        examples=report.examples,
    )
    hold(session, blobs.exists, [received.blob.sha256])
    return files.create(session, new, now)


def open_content(database: Database, blobs: BlobStore, file_id: str) -> BinaryIO:
    """Open a file's bytes as they were uploaded. No session is open while all of them are read and verified.

    Raises:
        FileNotStored: there is no such file.
        BlobNotFound: its record is there, but its bytes are not.
        BlobDamaged: its bytes are there, but they have changed.
    """
    with database.read() as session:
        sha256 = files.get(session, file_id).sha256
    with said_of(f"file {file_id}"):
        return blobs.open(sha256)


def _details(report: FileReport) -> str | None:
    if not report.problem_count:
        return None
    unnamed = report.problem_count - len(report.problems)
    named = "; ".join(str(problem) for problem in report.problems)
    return f"{named}; and {unnamed} more" if unnamed else named


def _clean(filename: str) -> str:
    """Keep the last part of a name, without what a path or a database would trip over."""
    name = PurePosixPath(filename.replace("\\", "/")).name.replace("\x00", "")
    return name[-_MAX_FILENAME_CHARS:] or "file"
