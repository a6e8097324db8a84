"""What stands before every route: first the request's id, its line in the log, its count and the net for unexpected
errors, then the guard that lets it in."""

import logging
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.error_envelopes import INTERNAL, problem_of, wire_of
from app.http.metrics import OpenRequest, RequestMetrics
from core.errors import InvalidInput, ServiceError
from core.ids import new_id
from core.listening.origin_guard import OriginGuard

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds, so not worth a line each

_log = structlog.stdlib.get_logger(__name__)


class RequestEdge:
    """Gives each request an id, which its response and all its log lines carry, and logs and counts its outcome.

    An exception that no handler knows is a bug of ours: the traceback is logged, the client is told
    nothing of it. Query strings and bodies are never logged.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req-")
        request = OpenRequest(self._metrics, scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.begin_response(message)
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                # what others wrote, as a file's name or an answer, never becomes a script or a page
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                # PostgreSQL takes no NUL, and no name of ours has one.
                if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
                    problem = problem_of(InvalidInput("the character U+0000 is not allowed in a URL"))
                    await problem.response(wire_of(scope["path"]))(scope, receive, send_with_id)
                    return
                await self._app(scope, receive, send_with_id)
            except Exception:
                _log.exception("unexpected error")
                if request.status:
                    raise  # only breaking the connection tells the client that the body is not whole
                await INTERNAL.response(wire_of(scope["path"]))(scope, receive, send_with_id)
            finally:
                request.end()
                level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
                _log.log(
                    level,
                    "answered",
                    method=scope["method"],
                    path=scope["path"],
                    status=request.status,
                    duration_ms=round(request.elapsed_s * 1000),
                )


class OriginGuardMiddleware:
    """Answers what the guard refuses, in the envelope of its path; nothing of the body is read for it."""

    def __init__(self, app: ASGIApp, guard: OriginGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._guard.check(scope)
            except ServiceError as refusal:
                await problem_of(refusal).response(wire_of(scope["path"]))(scope, receive, send)
                return
        await self._app(scope, receive, send)
