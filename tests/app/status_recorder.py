"""Holds every answer of every test against the API's description: an undocumented status is an error."""

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OURS_TO_MEND = 500  # a defect of ours: no route documents it
NOBODY_READS = 499


class StatusRecorder:
    """Wraps the whole app, and notes route, status and what is documented where they do not agree."""

    def __init__(self, app: ASGIApp, described: FastAPI, undocumented: list[str]) -> None:
        self._app = app
        self._described = described
        self._undocumented = undocumented

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, int(message["status"]))
            await send(message)

        await self._app(scope, receive, send_noting if scope["type"] == "http" else send)

    def _note(self, scope: Scope, status: int) -> None:
        route = scope.get("route")  # the router puts it there; none where a request was refused before
        if not isinstance(route, APIRoute) or not route.include_in_schema or status in (OURS_TO_MEND, NOBODY_READS):
            return
        method = scope["method"].lower()
        documented = self._described.openapi()["paths"][route.path_format].get(method, {"responses": {"405": {}}})
        if str(status) not in documented["responses"]:
            self._undocumented.append(f"{method} {route.path_format} answered {status}, which it does not document")
