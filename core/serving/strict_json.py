"""Reads JSON that may have been made to deceive: one object, no key twice, no number that JSON does not have.

What the object means is its reader's matter.
"""

import json
from itertools import pairwise
from typing import Any, Final, NoReturn

SHOWN_CHARS: Final = 120


def parse_object(content: bytes) -> dict[str, Any]:
    """Read the one object that the bytes are in UTF-8.

    Raises:
        ValueError: they are no JSON object, or say one thing twice; ``str()`` completes "it is no JSON: …".
    """
    try:
        text = content.decode("utf-8")  # json would take UTF-16, too
        value = json.loads(text, object_pairs_hook=_object_of, parse_constant=_refuse_constant, parse_float=_float_of)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def shown(text: str) -> str:
    """Quote a text of unknown origin for people: escaped, and not at any length."""
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, following in pairwise(keys) if key == following)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _float_of(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {shown(digits)} is too large")
    return value
