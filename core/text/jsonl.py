"""Reads one line of a JSONL file: strictly, so that no example is other than what its author sees.

What the object on the line means is ``core.text.examples``'.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from core.text.examples import Example, LineProblem, example_of, kind_of, refuse_nul

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"

_KEY_END = re.compile(rb'"\s*:')
_NOT_JSON = re.compile(rb"[:\[,]\s*(NaN|-?Infinity)\b")


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
    _refuse_repeated_keys(raw, value, line)
    return example_of(value, line)


def read_jsonl(lines: BinaryIO) -> Iterator[Example | LineProblem]:
    """Read examples with their line numbers; a line that is none comes as its problem, and reading goes on."""
    for number, raw in enumerate(lines, start=1):
        content = strip_line(raw, number)
        if not content:
            continue
        try:
            yield parse_line(content, number)
        except LineProblem as problem:
            yield problem


def strip_line(raw: bytes, line: int) -> bytes:
    """Take off what is no part of the JSON: white space around it and, on the first line, a byte order mark."""
    return (raw.removeprefix(BYTE_ORDER_MARK) if line == 1 else raw).strip(BLANK)


def _json_problem(raw: bytes, line: int, error: orjson.JSONDecodeError) -> LineProblem:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        byte = f"byte {broken.start + 1} is {raw[broken.start]:#04x}"
        return LineProblem(line, f"the line is not UTF-8: {byte}; save the file as UTF-8", "not_utf8")
    if "surrogate" in error.msg:
        reason = f"half a character (a lone surrogate) at character {error.pos + 1}; write the whole character"
        return LineProblem(line, reason, "lone_surrogate")
    odd = _NOT_JSON.search(raw)
    if odd is not None:
        return LineProblem(line, f"{odd[1].decode()} is not JSON; write null, or leave the example out", "not_a_number")
    return LineProblem(line, f"the line is not one JSON object: {error.msg} at character {error.pos + 1}")


def _refuse_repeated_keys(raw: bytes, value: dict[str, Any], line: int) -> None:
    """Refuse an object that has a key twice, of which a parser silently keeps one."""
    # Each key ends in '":'. Where there are no more of those than keys were kept, none was lost; texts
    # can hold some too, and only then is the line read again by a slower parser that sees all keys.
    if len(_KEY_END.findall(raw)) == _count_keys(value):
        return
    try:
        json.loads(raw, object_pairs_hook=lambda pairs: _object_of(pairs, line), parse_int=str)
    except RecursionError:
        raise LineProblem(line, "the object is nested too deeply") from None


def _object_of(pairs: list[tuple[str, Any]], line: int) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise LineProblem(line, f'the key "{twice}" stands twice in one object; keep one of them', "duplicate_key")
    return found


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
