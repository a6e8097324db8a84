"""The two envelopes that errors travel in, the headers beside them, and the names that a wire has for fields.

Which envelope a request gets depends on the wire it speaks, and so on its path alone. What an error means,
its status and whether another try may help are ``core.errors``' matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.http.wire import refusal_of_first
from core.errors import (
    AuthenticationFailed,
    EngineBusy,
    InvalidInput,
    InvalidParameter,
    RangeNotSatisfiable,
    ServiceError,
)
from core.errors.host_paths import without_host_paths

CLIENT_CLOSED_REQUEST: Final = 499  # nginx's number; nobody is left to read it but the log


class Wire(StrEnum):
    """The two protocols spoken, which differ in their envelope of errors and in their streams."""

    OPENAI = "openai"
    TGI = "tgi"  # text-generation-inference's, which LoRAX shares


_TGI_PATHS: Final = frozenset({"/", "/generate", "/generate_stream", "/info", "/health", "/tokenize"})
# What an engine calls a part of its request, and the client another way: by path, and only where they differ.
_TGI_NAMES: Final = {
    "prompt": "inputs",
    "messages": "inputs",
    "max_tokens": "parameters.max_new_tokens",
    "stop": "parameters.stop",
    "response_format": "parameters.grammar",
    "regex": "parameters.grammar",
}
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "/v1/chat/completions": {"prompt": "messages"},
    "/tokenize": {"prompt": "inputs"},
    **dict.fromkeys(("/", "/generate", "/generate_stream"), _TGI_NAMES),
}
_OPENAI_TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_TGI_TYPES: Final = {
    401: "authentication",
    404: "not_found",
    409: "conflict",
    429: "overloaded",
    503: "unavailable",
    507: "unavailable",
}


def wire_of(path: str) -> Wire:
    return Wire.TGI if path in _TGI_PATHS else Wire.OPENAI


@dataclass(frozen=True)
class Problem:
    """An error as it leaves the API, before it is put into an envelope."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, wire: Wire) -> dict[str, Any]:
        if wire is Wire.TGI:
            return {"error": self.message, "error_type": self._tgi_type()}
        kind = _OPENAI_TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, wire: Wire) -> JSONResponse:
        return JSONResponse(self.body(wire), status_code=self.status, headers=dict(self.headers))

    def _tgi_type(self) -> str:
        if self.code == "generation_failed":
            return "generation"
        return _TGI_TYPES.get(self.status) or ("incomplete_generation" if self.status >= 500 else "validation")


INTERNAL: Final = Problem(
    500, "internal_error", "internal error; the server's log tells more under this answer's x-request-id"
)


def problem_of(error: Exception, path: str = "") -> Problem:
    """Translate any exception into the terms of a path; of one that is not meant for people, nothing is told."""
    if isinstance(error, HTTPException):
        return _from_http(error)
    names = _NAMES.get(path, {})
    if isinstance(error, RequestValidationError):
        error, names = _from_validation(error), {}  # it has the wire's names already
    if not isinstance(error, ServiceError) or error.status == 500:
        return INTERNAL
    param = names.get(error.param or "", error.param)
    if isinstance(error, InvalidParameter) and error.param in names:
        error = type(error)(names[error.param], error.reason)
    # the one border: an engine's or a store's words may name paths of this machine
    return Problem(error.status, error.code, without_host_paths(str(error)), param, _headers_of(error))


def _headers_of(error: ServiceError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    elif error.status == 409 or error.status > 500:  # clients retry these by themselves, here in vain
        headers["x-should-retry"] = "false"
    if isinstance(error, EngineBusy):
        headers["retry-after-ms"] = str(error.retry_after_s * 1000)  # what OpenAI's clients look for first
    if isinstance(error, AuthenticationFailed):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size_bytes}"
    return headers


def _from_validation(error: RequestValidationError) -> ServiceError:
    """Report the first complaint, under the field's own name."""
    complaints = error.errors()
    first = complaints[0]
    place, *names = first["loc"]
    if first["type"] == "json_invalid":
        return InvalidInput(f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    if first["type"] == "fields" and not names:
        return InvalidInput(first["msg"])
    if not names:
        return InvalidInput(f"the {place} must be a JSON object, sent as Content-Type: application/json")
    return refusal_of_first([{**one, "loc": one["loc"][1:]} for one in complaints])


def _from_http(error: HTTPException) -> Problem:
    """Translate what the framework itself refuses: unknown paths and methods, unreadable bodies."""
    if error.status_code == 400:
        return problem_of(InvalidInput("the body could not be read as JSON"))
    status = HTTPStatus(error.status_code)
    message = f"{status.phrase}: {status.description}" if error.detail == status.phrase else error.detail
    return Problem(status, status.name.lower(), message, headers=error.headers or {})


def install(app: FastAPI) -> None:
    """Answer every expected error in the envelope of its path; what is unexpected is the middleware's."""

    async def answer(request: Request, error: Exception) -> Response:
        path = request.scope["path"]
        return problem_of(error, path).response(wire_of(path))

    async def say_nothing(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    for kind in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(ClientDisconnect, say_nothing)
