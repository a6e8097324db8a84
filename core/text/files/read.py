"""Reads a file of examples, whichever of the supported types it is, and tells which one it is.

How each type is written is its reader's: ``jsonl``, ``csv``, ``parquet``.
"""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, Final, Literal

from core.errors import FileTypeUnclear
from core.text.files.csv import read_csv
from core.text.files.examples import Example, LineProblem
from core.text.files.jsonl import BYTE_ORDER_MARK, read_jsonl
from core.text.files.parquet import MAGIC as PARQUET_MAGIC
from core.text.files.parquet import read_parquet

FileType = Literal["jsonl", "csv", "parquet"]

NO_LIMIT: Final = 2**62  # for files that were held against the limit when they were uploaded
HEAD_BYTES: Final = 8  # of a file's beginning that `file_type_of` looks at

_EXTENSIONS: Final[dict[str, FileType]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_ARCHIVES: Final = {
    b"PK\x03\x04": "a zip archive, as spreadsheets are too; unpack it, or save the table as CSV",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
}


def file_type_of(filename: str, head: bytes) -> FileType:
    """Tell a file's type by the extension of its name, or by its first bytes where the name says nothing.

    Args:
        head: the first `HEAD_BYTES` bytes, or all of a shorter file.

    Raises:
        FileTypeUnclear: name and bytes contradict each other, or the file is an archive.
    """
    for magic, what in _ARCHIVES.items():
        if head.startswith(magic):
            raise FileTypeUnclear(filename, f"the file is {what}")
    is_parquet = head.startswith(PARQUET_MAGIC)
    named = _EXTENSIONS.get(PurePath(filename).suffix.lower())
    if named == "parquet" and not is_parquet:
        raise FileTypeUnclear(filename, "the name ends in .parquet, but the file does not begin as Parquet does (PAR1)")
    if is_parquet and named in ("jsonl", "csv"):
        raise FileTypeUnclear(filename, "the file begins as Parquet does (PAR1); give it a name that ends in .parquet")
    if named == "csv" and head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b'{"'):
        raise FileTypeUnclear(filename, "the file begins with a JSON object; give it a name that ends in .jsonl")
    return named or ("parquet" if is_parquet else "jsonl")


def scan_examples(
    content: BinaryIO, file_type: FileType, max_line_bytes: int = NO_LIMIT
) -> Iterator[Example | LineProblem]:
    """Read examples one by one; a line that is none comes as its problem, and reading goes on where it can.

    Args:
        content: at its beginning; seekable for Parquet.
        max_line_bytes: of one line, one record of CSV, or one row of Parquet; memory grows with it.

    Raises:
        ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
    """
    match file_type:
        case "jsonl":
            return read_jsonl(content, max_line_bytes)
        case "csv":
            return read_csv(content, max_line_bytes)
        case "parquet":
            return read_parquet(content, max_line_bytes)


def read_examples(path: Path, file_type: FileType) -> Iterator[Example]:
    """Read a checked file's examples one by one, with their line numbers.

    Raises:
        LineProblem: a line is not an example, so the file was not checked.
        ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
    """
    with path.open("rb") as content:
        for found in scan_examples(content, file_type):
            if isinstance(found, LineProblem):
                raise found
            yield found
