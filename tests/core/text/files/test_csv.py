import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text.files.csv import read_csv
from core.text.files.examples import MAX_COLUMNS, Columns, Example, LineProblem, PromptCompletion


def read(content: bytes, max_record_bytes: int = 2**20) -> list[Example | LineProblem]:
    return list(read_csv(io.BytesIO(content), max_record_bytes))


def problems(content: bytes, max_record_bytes: int = 2**20) -> list[tuple[int, str, str]]:
    found = read(content, max_record_bytes)
    return [(item.line, item.code, item.reason) for item in found if isinstance(item, LineProblem)]


def test_columns_named_prompt_and_completion_are_an_example_of_those() -> None:
    assert read(b"prompt,completion\nQ: ,  A\n") == [PromptCompletion(2, "Q: ", "  A")]


def test_any_other_columns_are_for_a_prompt_format_and_strings() -> None:
    assert read(b'question,answer\n"1, or 2?",\n') == [Columns(2, {"question": "1, or 2?", "answer": ""})]


def test_the_line_is_the_one_on_which_the_record_begins() -> None:
    content = b'\xef\xbb\xbfq,a\r\n"one\r\ntwo\r\n",x\r\n\r\nlast,"y ""z"""'
    assert read(content) == [
        Columns(2, {"q": "one\r\ntwo\r\n", "a": "x"}),
        Columns(6, {"q": "last", "a": 'y "z"'}),
    ]


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (b"a,,b", "column 2 of the header has no name"),
        (b"a,b,a", '"a" stands twice'),
        (b"question, answer", '" answer" begins or ends with white space'),
        (b"a\0b", "column 1 holds the NUL"),
        (b'"a"b', "not CSV"),
        (b'"a', "never closed"),
        (b"\xff\xfea\0", "not UTF-8: byte 1 is 0xff"),
        (b",".join(b"c%d" % n for n in range(MAX_COLUMNS + 1)), "1,025 columns"),
        (b"x" * 3000, "longer than 1,000 bytes"),
    ],
)
def test_a_header_that_names_no_columns_ends_the_reading(header: bytes, part: str) -> None:
    limit = 1000 if header.startswith(b"xx") else 2**20
    ((line, _, reason),) = problems(header + b"\n1,2\n3,4\n", limit)
    assert line == 1
    assert part in reason


@pytest.mark.parametrize(
    ("record", "code", "part"),
    [
        (b"1", "field_count", "1 fields, but the header names 2 columns"),
        (b"1,2,3", "field_count", "3 fields"),
        (b'"x"y,2', "malformed_csv", 'write a quote as ""'),
        (b"1\r2,3", "malformed_csv", "carriage return"),
        (b"1,\0", "nul", "NUL"),
        (b"1,\xe9", "not_utf8", "byte 3 is 0xe9"),
    ],
)
def test_a_broken_record_is_named_and_reading_goes_on(record: bytes, code: str, part: str) -> None:
    content = b"q,a\n1,2\n" + record + b"\n3,4\n"
    ((line, found, reason),) = problems(content)
    assert (line, found) == (3, code)
    assert part in reason
    assert read(content)[-1] == Columns(4, {"q": "3", "a": "4"})


def test_a_quote_left_open_is_named_by_the_line_that_opens_it() -> None:
    assert problems(b'q,a\n1,2\n3,"4\n5,6\n7,8\n') == [
        (3, "malformed_csv", 'a quote (") opens in this record and is never closed')
    ]


def test_a_quote_left_open_in_a_large_file_ends_the_reading_at_the_limit() -> None:
    content = b'q,a\n1,"2\n' + b"3,4\n" * 100_000
    ((line, code, reason),) = problems(content, 1000)
    assert (line, code) == (2, "line_too_long")
    assert "is a quote left open?" in reason


class Endless(io.RawIOBase):
    """A file that opens a quote in its first record, and then repeats itself for ever."""

    def __init__(self, unit: bytes) -> None:
        self._rest = b'q\n"'
        self._unit = unit
        self.taken_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while len(self._rest) < len(buffer):
            self._rest += self._unit * 1000
        buffer[:] = self._rest[: len(buffer)]
        self._rest = self._rest[len(buffer) :]
        self.taken_bytes += len(buffer)
        return len(buffer)


@pytest.mark.parametrize("unit", [b"x", b'""', b"\n", b"\r\n", b","])
def test_no_more_than_the_limit_is_read_of_a_record_without_an_end(unit: bytes) -> None:
    endless = Endless(unit)
    ((line, code, _),) = [
        (item.line, item.code, item.reason)
        for item in read_csv(io.BufferedReader(endless, 4096), 10_000)
        if isinstance(item, LineProblem)
    ]
    assert (line, code) == (2, "line_too_long")
    assert endless.taken_bytes < 20_000


def test_a_field_longer_than_the_modules_own_limit_is_read() -> None:
    text = "x" * 500_000
    assert read(f"q\n{text}\n".encode()) == [Columns(2, {"q": text})]


def test_fewer_bytes_than_the_limit_are_enough_for_as_many_quotes() -> None:
    assert read(b'q\n"' + b'""' * 100_000 + b'"\n') == [Columns(2, {"q": '"' * 100_000})]


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(rows=st.lists(st.tuples(_TEXT, _TEXT), min_size=1))
def test_what_a_writer_writes_comes_back(rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("q", "a"), *rows])
    found = read(written.getvalue().encode())
    assert [item.values for item in found if isinstance(item, Columns)] == [{"q": q, "a": a} for q, a in rows]
