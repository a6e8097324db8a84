"""Bounds on the shape of a JSON body: how many values it has, and how many of them are lists and objects.

A body of a few megabytes can hold a million of either, each of which is looked at again and again once the body is
read, and all that time nobody else is answered. Long texts are cheap. Knows no HTTP and no fields.
"""

import re
from typing import Any, Final

MAX_VALUES: Final = 2**20  # a prompt as token ids is mostly these
MAX_TEXTS: Final = 2**18  # keys among them
MAX_CONTAINERS: Final = 2**15  # lists and objects; a parser makes them so slowly that they are counted before
MAX_KEYS: Final = 2**15  # of all objects together
FREE_BYTES: Final = 2**15  # no body of so few bytes has more of anything

# What is outside of texts; a text whose end is missing is the parser's to find.
_OPENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]', re.DOTALL)
_QUOTE: Final = ord('"')
_CONTAINERS: Final = frozenset({dict, list})


def find_excess_unread(raw: bytes) -> str | None:
    """Say what a body has too much of, before it is parsed; None: nothing that would make parsing slow."""
    if len(raw) <= FREE_BYTES:
        return None
    containers = texts = 0
    for opening in _OPENS.finditer(raw):
        if raw[opening.start()] == _QUOTE:
            texts += 1
            if texts > MAX_TEXTS:
                return f"more than {MAX_TEXTS:,} texts"
        else:
            containers += 1
            if containers > MAX_CONTAINERS:
                return f"more than {MAX_CONTAINERS:,} lists and objects"
    return None


def find_excess(body: Any) -> str | None:
    """Say what a parsed body has too much of; None: nothing. Looks no further once it has found something."""
    values = keys = 0
    level = [body] if type(body) in _CONTAINERS else []
    while level:
        inner = []
        for container in level:
            values += len(container)
            if values > MAX_VALUES:
                return f"more than {MAX_VALUES:,} values"
            items = container
            if isinstance(container, dict):
                keys += len(container)
                if keys > MAX_KEYS:
                    return f"more than {MAX_KEYS:,} keys"
                items = container.values()
            if not _CONTAINERS.isdisjoint(map(type, items)):
                inner += [item for item in items if type(item) in _CONTAINERS]
        level = inner
    return None
