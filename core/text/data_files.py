"""Reads a file of examples, whichever of the supported kinds it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from core.text.examples import Example, LineProblem
from core.text.jsonl import read_jsonl

FileType = Literal["jsonl", "csv", "parquet"]


def scan_examples(content: BinaryIO, file_type: FileType) -> Iterator[Example | LineProblem]:
    """Read examples one by one; a line that is none comes as its problem, and reading goes on."""
    assert file_type == "jsonl"
    return read_jsonl(content)


def read_examples(path: Path, file_type: FileType = "jsonl") -> Iterator[Example]:
    """Read a checked file's examples one by one, with their line numbers.

    Raises:
        LineProblem: a line is not an example, so the file was not checked.
    """
    with path.open("rb") as content:
        for found in scan_examples(content, file_type):
            if isinstance(found, LineProblem):
                raise found
            yield found
