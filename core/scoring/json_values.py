"""JSON in an answer, as the fields that it holds, so that two texts can be compared by what they say.

Numbers are equal by value (1 and 1.0), true is not 1, the order of keys does not count and that of lists does.
"""

import json
from collections import Counter
from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

MAX_DEPTH: Final = 64  # of lists and objects in each other, as in an uploaded file

Leaf = tuple[tuple[str | int, ...], str, Hashable]  # where it stands, its type, its value


def leaves(text: str) -> Counter[Leaf] | None:
    """Give all values of a JSON text with the path to each; an empty list or object is a value. None: it is no JSON.

    No JSON are, too, a key that stands twice in an object, NaN, infinities, and what nests deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(
            text,
            parse_int=Decimal,
            parse_float=Decimal,
            parse_constant=_refuse,
            object_pairs_hook=_object_without_doubles,
        )
    except (ValueError, InvalidOperation, RecursionError):
        return None
    found: Counter[Leaf] = Counter()
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > MAX_DEPTH:
            return None
        if value and isinstance(value, dict):
            waiting.extend(((*path, key), inner) for key, inner in value.items())
        elif value and isinstance(value, list):
            waiting.extend(((*path, place), inner) for place, inner in enumerate(value))
        else:
            is_empty = isinstance(value, dict | list)
            found[path, type(value).__name__, None if is_empty else value] += 1
    return found


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
