"""The root of the tree, and the branches that requests meet."""

from collections.abc import Iterator
from typing import ClassVar, Self


class ServiceError(Exception):
    """Base of all errors meant for people; ``str()`` names the thing and the remedy."""

    code: ClassVar[str] = "service_error"
    status: ClassVar[int] = 500  # HTTP's; this one stands for what must never reach a request, such as a job's errors

    @property
    def retry_after_s(self) -> int | None:
        """After how many seconds the same request may succeed; None where it fails again however often it is sent."""
        return None

    @property
    def param(self) -> str | None:
        """The request field at fault, in the request's own spelling; None when it is not one field."""
        return None

    @classmethod
    def tree(cls) -> Iterator[type[Self]]:
        """Give this class and all below it."""
        yield cls
        for child in cls.__subclasses__():
            yield from child.tree()


class InvalidInput(ServiceError):
    """The request is wrong and repeating it cannot help."""

    code = "invalid_input"
    status = 400


class NotFound(ServiceError):
    """The thing named does not exist, or was deleted."""

    code = "not_found"
    status = 404
    kind: ClassVar[str] = "object"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.args[0]}"


class Conflict(ServiceError):
    """The present state of the thing forbids the request; nothing was changed."""

    code = "conflict"
    status = 409


class Unavailable(ServiceError):
    """The request is right but cannot be served now."""

    code = "unavailable"
    status = 503

    @property
    def retry_after_s(self) -> int | None:
        return 5
