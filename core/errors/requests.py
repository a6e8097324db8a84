"""Errors of a request itself, whatever it asks for."""

from core.errors.tree import Conflict, InvalidInput, ServiceError, Unavailable


class AuthenticationFailed(ServiceError):
    """The request carries no API key, or one that is not known."""

    code = "invalid_api_key"
    status = 401

    def __str__(self) -> str:
        return "missing or unknown API key; send it as 'Authorization: Bearer <key>'"


class HostNotAllowed(ServiceError):
    """The request asks for a host that this server does not answer to."""

    code = "host_not_allowed"
    status = 421

    def __init__(self, host: str, remedy: str) -> None:
        super().__init__(host, remedy)

    def __str__(self) -> str:
        return f"this server does not answer to the host {self.args[0]!r}: {self.args[1]}"


class OriginNotAllowed(ServiceError):
    """A page of another origin sends what only our own may."""

    code = "origin_not_allowed"
    status = 403

    def __init__(self, origin: str) -> None:
        super().__init__(origin)

    def __str__(self) -> str:
        page = f"pages of {self.args[0]!r}" if self.args[0] else "pages of other sites"
        return (
            f"{page} may not send this request: send the API key as 'Authorization: Bearer <key>', "
            "or name their origin in LORAMILL_CORS_ORIGINS"
        )


class RequestTooSlow(ServiceError):
    """The request did not arrive in time, or stood still on its way."""

    code = "request_too_slow"
    status = 408

    def __str__(self) -> str:
        return "the request came too slowly; send its head within 10 seconds, and then at least 500 bytes a second"


class TooManyConnections(Unavailable):
    """As many connections as the server can hold, or may have from one address, are busy."""

    code = "too_many_connections"

    @property
    def retry_after_s(self) -> int:
        return 1

    def __str__(self) -> str:
        return "the server has as many connections as it can hold; try again in a second, over fewer connections"


class InvalidParameter(InvalidInput):
    """A field has a value that is not allowed."""

    code = "invalid_parameter"

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(param, reason)

    @property
    def param(self) -> str:
        return str(self.args[0])

    @property
    def reason(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return f"{self.param}: {self.reason}"


class UnsupportedParameter(InvalidParameter):
    """A field exists in the protocol but Loramill does not implement it, so it is refused."""

    code = "unsupported_parameter"

    def __init__(self, param: str, reason: str = "this field is not supported; leave it out") -> None:
        super().__init__(param, reason)


class RangeNotSatisfiable(InvalidInput):
    """The bytes that `Range` asks for begin behind the end."""

    code = "range_not_satisfiable"
    status = 416

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)

    @property
    def size_bytes(self) -> int:
        """Of all that there is."""
        return int(self.args[0])

    def __str__(self) -> str:
        return f"Range asks for bytes behind the end; there are {self.size_bytes:,}"


class IdempotencyMismatch(InvalidInput):
    """An Idempotency-Key came again with another body."""

    code = "idempotency_mismatch"
    status = 422

    def __str__(self) -> str:
        return "this Idempotency-Key was used with another request body; use a new key"


class IdempotencyInProgress(Conflict):
    """Two requests with one Idempotency-Key came at the same time, and the other one was first."""

    code = "idempotency_in_progress"

    @property
    def retry_after_s(self) -> int:
        return 1

    def __str__(self) -> str:
        return "another request with this Idempotency-Key is being answered; send it again in a second"
