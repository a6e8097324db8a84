"""Reads JSONL, one example a line: strictly, so that no example is other than what its author sees.

What the object on the line means is ``core.text.files.examples``'.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, BinaryIO, Final

import orjson

from core.text.files.examples import (
    MAX_DEPTH,
    Chat,
    Columns,
    Example,
    LineProblem,
    MaskSpan,
    Message,
    PromptCompletion,
    example_of,
    kind_of,
    refuse_deep,
    refuse_nul,
    shown,
)
from core.text.files.file_type import FileType, Signature

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"

_KEY_END = re.compile(rb'"\s*:')
_LONG_NUMBER = re.compile(rb"\d{19}")
_NOT_JSON = re.compile(rb"[:\[,]\s*(NaN|-?Infinity)\b")
_MAX_DIGITS = 20  # of a whole number in 64 bits; beyond those, orjson gives a float with other digits
_SKIPPED_BYTES = 2**20  # read at once of an over-long line


def parse_line(raw: bytes, line: int) -> Example:
    """Read one line, with or without its line end.

    Raises:
        LineProblem: it is not one JSON object of a known shape, or says one thing twice.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _json_problem(raw, line, error) from error
    if not isinstance(value, dict):
        raise LineProblem(line, f"expected a JSON object, not {kind_of(value)}", "not_an_object")
    if rb"\u0000" in raw:
        refuse_nul(value, line)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        refuse_deep(value, line)
    _refuse_what_was_lost(raw, value, line)
    return example_of(value, line)


def read_jsonl(lines: BinaryIO, max_line_bytes: int) -> Iterator[Example | LineProblem]:
    """Read examples with their line numbers; a line that is none comes as its problem, and reading goes on."""
    for number in count(1):
        raw = lines.readline(max_line_bytes + 1)
        if not raw:
            return
        if len(raw) > max_line_bytes and not raw.endswith(b"\n"):
            yield too_long(number, max_line_bytes)
            while raw and not raw.endswith(b"\n"):
                raw = lines.readline(_SKIPPED_BYTES)
            continue
        example = read_line(raw, number)
        if example is not None:
            yield example


def read_line(raw: bytes, line: int) -> Example | LineProblem | None:
    """Give the example on a line, or its problem; None where nothing is on it.

    White space around the JSON is no part of it, nor is a byte order mark on the first line.
    """
    content = (raw.removeprefix(BYTE_ORDER_MARK) if line == 1 else raw).strip(BLANK)
    try:
        return parse_line(content, line) if content else None
    except LineProblem as problem:
        return problem


def line_of(example: Example) -> bytes:
    """Write an example, of whatever file, as the line that `parse_line` reads it from, with its line end."""
    value: Any
    match example:
        case PromptCompletion(prompt=prompt, completion=completion):
            value = {"prompt": prompt, "completion": completion} | _written_spans(example.mask_spans)
        case Chat(messages=messages):
            value = {"messages": [_written_message(message) for message in messages]}
        case Columns(values=values):
            value = values
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _written_message(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "assistant":
        turn |= {"weight": message.weight} | _written_spans(message.mask_spans)
    return turn


def _written_spans(spans: Sequence[MaskSpan]) -> dict[str, Any]:
    return {"mask_spans": spans} if spans else {}


def too_long(line: int, max_line_bytes: int, hint: str = "") -> LineProblem:
    """Say that a line, or what begins on it, is over the limit that bounds a reader's memory."""
    return LineProblem(line, f"the line is longer than {max_line_bytes:,} bytes{hint}", "line_too_long")


def not_utf8(raw: bytes, line: int, error: UnicodeDecodeError) -> LineProblem:
    """Say which byte of a line breaks its encoding."""
    byte = f"byte {error.start + 1} is {raw[error.start]:#04x}"
    return LineProblem(line, f"the line is not UTF-8: {byte}; save the file as UTF-8", "not_utf8")


def _json_problem(raw: bytes, line: int, error: orjson.JSONDecodeError) -> LineProblem:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        return not_utf8(raw, line, broken)
    if "surrogate" in error.msg:
        reason = f"half a character (a lone surrogate) at character {error.pos + 1}; write the whole character"
        return LineProblem(line, reason, "lone_surrogate")
    odd = _NOT_JSON.search(raw)
    if odd is not None:
        return LineProblem(line, f"{odd[1].decode()} is not JSON; write null, or leave the example out", "not_a_number")
    return LineProblem(line, f"the line is not one JSON object: {error.msg} at character {error.pos + 1}")


def _refuse_what_was_lost(raw: bytes, value: dict[str, Any], line: int) -> None:
    """Refuse what the quick parser drops or changes in silence: a key that came twice, a number with many digits."""
    # Each key ends in '":'. Where there are no more of those than keys were kept, none was lost; texts
    # can hold some too, and only then is the line read again by a slower parser that sees all keys.
    if len(_KEY_END.findall(raw)) == _count_keys(value) and not _LONG_NUMBER.search(raw):
        return
    json.loads(
        raw,
        object_pairs_hook=lambda pairs: _object_of(pairs, line),
        parse_int=lambda digits: _refuse_large(digits, line),
    )


def _object_of(pairs: list[tuple[str, Any]], line: int) -> dict[str, Any]:
    value_of: dict[str, Any] = {}
    for key, value in pairs:
        if key in value_of:
            raise LineProblem(line, f"the key {shown(key)} stands twice in one object; keep one", "duplicate_key")
        value_of[key] = value
    return value_of


def _refuse_large(digits: str, line: int) -> None:
    if len(digits) > _MAX_DIGITS or not -(2**63) <= int(digits) < 2**64:
        number = digits if len(digits) <= 40 else f"{digits[:40]}..."
        reason = f"the number {number} is too large to be kept exactly; write it as a string"
        raise LineProblem(line, reason, "number_too_large")


def _count_keys(value: Any) -> int:
    """Count the keys of all objects, without recursion because a line may nest deeply."""
    keys, pending = 0, [value]
    while pending:
        match pending.pop():
            case dict(items):
                keys += len(items)
                pending += items.values()
            case list(items):
                pending += items
    return keys


JSONL: Final = FileType(
    name="jsonl",
    title="JSONL",
    extensions=(".jsonl", ".ndjson", ".json"),
    reader=read_jsonl,
    line_reader=read_line,
    signature=Signature(
        lambda head: head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b'{"'),
        "with a JSON object",
        is_required=False,  # white space may come first, and other things, whose lines are then told
    ),
)
