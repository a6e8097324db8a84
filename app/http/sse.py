"""Server-sent events: from a generator of wire objects to a response, in either protocol's manner.

Knows nothing of generation; it owns when a stream starts, how it ends, and that it is closed.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

import anyio
import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.http.error_envelopes import INTERNAL, Wire, problem_of, wire_of

T = TypeVar("T")
# for the description of a route that answers by events, where it is asked to: what each event is
OR_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "description": "JSON; OpenAI's wire ends with [DONE]"}},
                }
            }
        }
    }
}
Chunks = AsyncGenerator[BaseModel, None]

_log = structlog.stdlib.get_logger(__name__)


class EventStream(StreamingResponse):
    """A response of events whose generator is closed in every case, even if it was never begun."""

    def __init__(self, first: BaseModel, rest: Chunks, path: str) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the latter: no buffering in nginx
        super().__init__(_events(first, rest, path), media_type="text/event-stream", headers=headers)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._rest.aclose()


async def stream(request: Request, chunks: Chunks) -> EventStream:
    """Begin to stream once there is a first chunk, so that earlier errors are answered by a status.

    Raises:
        ClientDisconnect: the client left before that.
    """
    return EventStream(await while_connected(request, anext(chunks)), chunks, request.scope["path"])


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, whose request's body was read already, and cancel it when the client leaves.

    Raises:
        ClientDisconnect: it left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_disconnect(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(first: BaseModel, rest: Chunks, path: str) -> AsyncGenerator[bytes, None]:
    wire = wire_of(path)
    # Text-generation clients strip "data:" and parse what follows; OpenAI's own look for "data: ".
    prefix = "data:" if wire is Wire.TGI else "data: "
    yield f"{prefix}{first.model_dump_json()}\n\n".encode()
    try:
        async for chunk in rest:
            yield f"{prefix}{chunk.model_dump_json()}\n\n".encode()
    except Exception as error:  # the status is sent already, so an event is the only way to tell
        problem = problem_of(error, path)
        if problem is INTERNAL:
            _log.exception("unexpected error in a stream")
        yield f"{prefix}{json.dumps(problem.body(wire))}\n\n".encode()
        return
    if wire is Wire.OPENAI:  # the others' clients would parse it as JSON and fail
        yield b"data: [DONE]\n\n"
