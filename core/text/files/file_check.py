"""Checks an uploaded file of examples: what it holds, and what is wrong with it.

A file whose examples are lines is checked while its bytes arrive, any other when all of them did. Where the bytes
come from and where they are kept is the caller's.
"""

from dataclasses import dataclass
from typing import BinaryIO

from core.text.files.examples import Columns, Example, ExampleFormat, LineProblem
from core.text.files.file_type import FileType, LineReader
from core.text.files.jsonl import too_long
from core.text.files.one_format import OneFormat

MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a file holds, and what is wrong with it.

    Attributes:
        examples: lines that are examples of the file's format.
        format: of the first example; None when there is none.
        columns: those that every example has, in the first one's order; None for the other formats.
        problems: the first 20, in the order of their lines.
        problem_count: all of them.
    """

    examples: int
    format: ExampleFormat | None
    columns: tuple[str, ...] | None
    problems: tuple[LineProblem, ...]
    problem_count: int


def check_file(content: BinaryIO, file_type: FileType, max_line_bytes: int) -> FileReport:
    """Check a whole file.

    Raises:
        ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
    """
    findings = _Findings()
    for example in file_type.read(content, max_line_bytes):
        findings.add(example)
    return findings.report()


class LineChecker:
    """Takes a file of lines in pieces cut anywhere; ``finish`` reports on it. Lines count from 1, blank ones too."""

    def __init__(self, read_line: LineReader, max_line_bytes: int) -> None:
        self._read_line = read_line
        self._max_line_bytes = max_line_bytes
        self._begun = bytearray()  # the start of the line that is not complete yet
        self._line = 1
        self._is_skipping = False  # inside an over-long line, whose problem is noted already
        self._findings = _Findings()

    def feed(self, chunk: bytes) -> None:
        """Take the file's next bytes."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._extend(chunk[start:end])
            self._end_line()
            start = end + 1
        self._extend(chunk[start:])

    def finish(self) -> FileReport:
        """Check the last line, which may lack its line end, and report."""
        self._end_line()
        return self._findings.report()

    def _extend(self, part: bytes) -> None:
        if self._is_skipping:
            return
        if len(self._begun) + len(part) > self._max_line_bytes:
            self._findings.add(too_long(self._line, self._max_line_bytes))
            self._is_skipping = True
            self._begun.clear()
        else:
            self._begun += part

    def _end_line(self) -> None:
        example = self._read_line(bytes(self._begun), self._line)
        if example is not None:
            self._findings.add(example)
        self._begun.clear()
        self._is_skipping = False
        self._line += 1


class _Findings:
    """Counts what a reader gives, and keeps the first problems."""

    def __init__(self) -> None:
        self._examples = 0
        self._one_format = OneFormat()
        self._columns: tuple[str, ...] | None = None
        self._problems: list[LineProblem] = []
        self._problem_count = 0

    def add(self, example: Example | LineProblem) -> None:
        checked = self._one_format.check(example)
        if isinstance(checked, LineProblem):
            self._problem_count += 1
            if len(self._problems) < MAX_PROBLEMS:
                self._problems.append(checked)
            return
        self._examples += 1
        if isinstance(checked, Columns):
            names = checked.values if self._columns is None else self._columns
            self._columns = tuple(name for name in names if name in checked.values)

    def report(self) -> FileReport:
        if not self._examples and not self._problem_count:
            self.add(LineProblem(1, "the file holds no examples; write one on each line", "empty_file"))
        format_ = self._one_format.format
        return FileReport(self._examples, format_, self._columns, tuple(self._problems), self._problem_count)
