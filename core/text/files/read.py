"""The types of files that examples come in: all of them, which one a file is, and reading one that was checked.

How each type is written is its reader's: ``jsonl``, ``csv``, ``parquet``.
"""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Final

from pydantic import AfterValidator

from core.errors import FileTypeUnclear
from core.text.files.csv import CSV
from core.text.files.examples import Example, LineProblem
from core.text.files.file_type import FileType
from core.text.files.jsonl import JSONL
from core.text.files.parquet import PARQUET

FILE_TYPES: Final[dict[str, FileType]] = {each.name: each for each in (JSONL, CSV, PARQUET)}

_ARCHIVES: Final = {
    b"PK\x03\x04": "a zip archive, as spreadsheets are too; unpack it, or save the table as CSV",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
}


def _known(name: str) -> str:
    if name not in FILE_TYPES:
        raise ValueError(f"no such type of file: {name}")
    return name


FileTypeName = Annotated[str, AfterValidator(_known)]  # as values that travel have it


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
    extension = PurePath(filename).suffix.lower()
    named = next((each for each in FILE_TYPES.values() if extension in each.extensions), None)
    if named is not None and named.signature is not None and named.signature.matches(head):
        return named
    if named is not None and named.signature is not None and named.signature.is_required:
        reason = f"the name ends in {extension}, but the file does not begin {named.signature.words}"
        raise FileTypeUnclear(filename, reason)
    for each in FILE_TYPES.values():
        if each.signature is None or not each.signature.matches(head):
            continue
        if named is None:
            return each
        reason = f"the file begins {each.signature.words}; give it a name that ends in {each.extensions[0]}"
        raise FileTypeUnclear(filename, reason)
    return named or JSONL


def read_examples(path: Path, file_type: FileType) -> Iterator[Example]:
    """Read a checked file's examples one by one, with their line numbers.

    Raises:
        LineProblem: a line is not an example, so the file was not checked.
        ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
    """
    with path.open("rb") as content:
        for example in file_type.read(content):
            if isinstance(example, LineProblem):
                raise example
            yield example
