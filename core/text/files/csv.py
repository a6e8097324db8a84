"""Reads examples from CSV: a header, then one example a record, all of whose values are strings.

Strict, because a lenient reader turns one forgotten quote into an example with half a file in it.
A record's line is the line of the file on which it begins; memory is bounded by one record.
"""

import csv
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

from core.text.files.examples import MAX_COLUMNS, Example, LineProblem, example_of, refuse_nul, shown
from core.text.files.file_type import FileType
from core.text.files.jsonl import BYTE_ORDER_MARK, not_utf8, too_long

# The module's own limit is one for the whole process, and too small for texts; `_Lines` bounds whole records.
csv.field_size_limit(sys.maxsize)

_QUOTE_LEFT_OPEN = "unexpected end of data"  # csv's words
_BARE_RETURN = "new-line character seen in unquoted field"


def read_csv(content: BinaryIO, max_record_bytes: int) -> Iterator[Example | LineProblem]:
    """Read examples with the lines they begin on; a record that is none comes as its problem.

    Reading ends at a record over the limit: behind a quote left open, nobody knows where the next one begins.
    """
    records = _records(_Lines(content, max_record_bytes))
    header = next(records, None)
    if header is None:
        return
    problem = header if isinstance(header, LineProblem) else _header_problem(*header)
    if problem is not None:
        yield problem
        return
    assert not isinstance(header, LineProblem)
    _, names = header
    for record in records:
        if isinstance(record, LineProblem):
            yield record
            continue
        try:
            yield _example(names, *record)
        except LineProblem as record_problem:
            yield record_problem


class _Lines:
    """A file's lines as text, for csv.reader, which takes more than one of them while a quote is open."""

    def __init__(self, content: BinaryIO, max_record_bytes: int) -> None:
        self._content = content
        self._max_record_bytes = max_record_bytes
        self._line = 0
        self.begin_record()

    def begin_record(self) -> None:
        self.record_line = self._line + 1
        self._left_bytes = self._max_record_bytes

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._content.readline(self._left_bytes + 1)
        if not raw:
            raise StopIteration
        self._line += 1
        self._left_bytes -= len(raw)  # line ends too: a quoted field may hold millions of them
        if self._left_bytes < 0:
            raise too_long(self.record_line, self._max_record_bytes, "; is a quote left open?")
        if self._line == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(raw, self._line, error) from error


def _records(lines: _Lines) -> Iterator[tuple[int, list[str]] | LineProblem]:
    """Give each record's line and fields; blank lines are none."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except LineProblem as problem:
            yield problem
            if problem.code == "line_too_long":
                return
        except csv.Error as error:
            yield LineProblem(lines.record_line, _explain(error), "malformed_csv")
        else:
            if fields:
                yield lines.record_line, fields


def _explain(error: csv.Error) -> str:
    words = str(error)
    if words.startswith(_QUOTE_LEFT_OPEN):
        return 'a quote (") opens in this record and is never closed'
    if words.startswith(_BARE_RETURN):
        return r"a carriage return (\r) stands outside quotes; end lines with \n or \r\n"
    return f'the record is not CSV ({words}); inside a quoted field, write a quote as ""'


def _header_problem(line: int, names: list[str]) -> LineProblem | None:
    """Say what is wrong with the column names; None where nothing is."""
    if len(names) > MAX_COLUMNS:
        return LineProblem(line, f"there are {len(names):,} columns; at most {MAX_COLUMNS:,} are supported", "header")
    seen: set[str] = set()
    for index, name in enumerate(names, start=1):
        if not name:
            return LineProblem(line, f"column {index} of the header has no name", "header")
        if name != name.strip():
            reason = f"the column name {shown(name)} begins or ends with white space; remove it"
            return LineProblem(line, reason, "header")
        if "\0" in name:
            return LineProblem(line, f"the name of column {index} holds the NUL character; remove it", "nul")
        if name in seen:
            return LineProblem(line, f"the column name {shown(name)} stands twice in the header", "header")
        seen.add(name)
    return None


def _example(names: list[str], line: int, fields: list[str]) -> Example:
    if len(fields) != len(names):
        reason = (
            f"the record has {len(fields):,} fields, but the header names {len(names):,} columns; "
            "put a field that holds commas, quotes or line breaks into double quotes"
        )
        raise LineProblem(line, reason, "field_count")
    refuse_nul(fields, line)
    return example_of(dict(zip(names, fields, strict=True)), line)


CSV: Final = FileType(name="csv", title="CSV", extensions=(".csv",), reader=read_csv)
