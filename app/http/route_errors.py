"""The errors that a route, or a dependency, says it can end with.

What the API's description makes of them is ``app.http.description.documented_errors``' matter, what an error means
that of ``core.errors``.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    BaseModelNotReady,
    BaseModelNotServed,
    DatabaseReadOnly,
    DatabaseUnavailable,
    EngineBusy,
    EngineUnavailable,
    GenerationFailed,
    ModelNotFound,
    PromptTooLong,
    ServiceError,
    StorageFull,
)

Kind = type[ServiceError]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

READING: Final[tuple[Kind, ...]] = (DatabaseUnavailable,)
WRITING: Final[tuple[Kind, ...]] = (DatabaseUnavailable, DatabaseReadOnly, StorageFull)
# of an engine that is asked for something of a model, ours or vLLM
ASKING: Final[tuple[Kind, ...]] = (
    *READING,
    ModelNotFound,
    BaseModelNotServed,
    BaseModelNotReady,
    EngineUnavailable,
    EngineBusy,
    GenerationFailed,
    AdapterInvalid,
    AdapterMismatch,
    PromptTooLong,
)

_MARK: Final = "__raises__"


def raises(*kinds: Kind) -> Callable[[Endpoint], Endpoint]:
    """Name the errors that a route or a dependency can end with, beside those of what it depends on."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, kinds)
        return endpoint

    return mark


def raised_by(call: Callable[..., Any] | None) -> Iterable[Kind]:
    """Give what a route or a dependency named itself."""
    kinds: Iterable[Kind] = getattr(call, _MARK, ())
    return kinds
