"""One of each error in the tree, made from what its constructor says it takes."""

import inspect
from typing import Any, get_type_hints

from core.errors import ServiceError

_VALUES: dict[Any, Any] = {
    str: "a reason",
    str | None: None,
    int: 7,
    bool: False,
    dict[str, int]: {"weights": 10**9},
    tuple[int, ...]: (3, 4),
    tuple[str, ...]: ("a", "b"),
}


def all_errors() -> list[ServiceError]:
    return [sample_of(kind) for kind in ServiceError.tree()]


def sample_of(kind: type[ServiceError], text: str = "a reason") -> ServiceError:
    """Make one of a kind, each of whose texts is ``text``."""
    if kind.__init__ is Exception.__init__:  # which takes whatever there is
        return kind(text)
    hints = get_type_hints(kind.__init__)
    names = list(inspect.signature(kind).parameters)
    return kind(*(text if hints[name] is str else _VALUES[hints[name]] for name in names))
