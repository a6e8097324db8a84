"""Errors of a request itself, whatever it asks for."""

from core.errors.tree import Conflict, InvalidInput, ServiceError


class AuthenticationFailed(ServiceError):
    """The request carries no API key, or one that is not known."""

    code = "invalid_api_key"
    status = 401

    def __str__(self) -> str:
        return "missing or unknown API key; send it as 'Authorization: Bearer <key>'"


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
