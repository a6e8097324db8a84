"""The engine's internal HTTP: generate, render, warm, info, readyz, on loopback or a private network.

Translates between the wire and ``core.generation.Engine``; knows neither the model nor who asks.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from core.errors import Conflict, EngineBusy, InvalidInput, InvalidParameter, NotFound, ServiceError, Unavailable
from core.generation import Delta, Engine, GenerationRequest, RenderRequest
from core.jobs import Frozen

# The first class that an error belongs to gives its status; an error of none is answered 500.
STATUS_OF: Final[Mapping[type[ServiceError], int]] = {
    EngineBusy: 429,
    InvalidInput: 400,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
}

Body = TypeVar("Body", bound=Frozen)


class ServedEngine(Engine, Protocol):
    """An engine of this process: it is started, can die, and is closed."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]: ...

    def start(self) -> None: ...

    @property
    def is_alive(self) -> bool: ...

    async def close(self) -> None: ...


class WarmRequest(Frozen):
    """Body of POST /warm."""

    adapter: str


def create_app(engine: ServedEngine) -> Starlette:
    """Make the ASGI app of an engine; the engine runs as long as the app does."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.close()

    async def generate(request: Request) -> "DeltaStream":
        return DeltaStream(engine.generate(await _read_body(request, GenerationRequest)))

    async def render(request: Request) -> Response:
        rendering = await engine.render(await _read_body(request, RenderRequest))
        return JSONResponse(rendering.model_dump(mode="json"))

    async def warm(request: Request) -> Response:
        body = await _read_body(request, WarmRequest)
        await engine.warm(body.adapter)
        return JSONResponse({"adapter": body.adapter})

    async def info(_request: Request) -> Response:
        return JSONResponse((await engine.info()).model_dump(mode="json"))

    async def readyz(_request: Request) -> Response:
        return JSONResponse({"ready": engine.is_alive}, status_code=200 if engine.is_alive else 503)

    routes = [
        Route("/generate", generate, methods=["POST"]),
        Route("/render", render, methods=["POST"]),
        Route("/warm", warm, methods=["POST"]),
        Route("/info", info),
        Route("/readyz", readyz),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={ServiceError: _answer_error})


class DeltaStream:
    """An ASGI response of one JSON line a delta; when the client leaves, the request is cancelled.

    What goes wrong before the first delta is raised, so it is answered with a status of its own. Later
    errors are a last line ``{"error": …}``. The client is watched from the start: one that leaves while
    its request still waits must not be worked for either.
    """

    def __init__(self, deltas: AsyncGenerator[Delta, None]) -> None:
        self._deltas = deltas

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(send))
        watching = asyncio.create_task(_await_disconnect(receive))
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            watching.cancel()
            await asyncio.wait({answering, watching})
        if not answering.cancelled():
            answering.result()

    async def _answer(self, send: Send) -> None:
        async with aclosing(self._deltas) as deltas:
            first = await anext(deltas)
            headers = [(b"content-type", b"application/x-ndjson")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send_line(send, first.model_dump(mode="json"))
            try:
                async for delta in deltas:
                    await _send_line(send, delta.model_dump(mode="json"))
            except ServiceError as error:
                await _send_line(send, {"error": _error_body(error)})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_line(send: Send, content: dict[str, Any]) -> None:
    # in ASCII, because many clients also break lines at U+0085 and U+2028, which a model may well write
    line = json.dumps(content, ensure_ascii=True, allow_nan=False)
    await send({"type": "http.response.body", "body": f"{line}\n".encode(), "more_body": True})


async def _await_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, kind: type[Body]) -> Body:
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidParameter(".".join(map(str, first["loc"])), first["msg"]) from error


def _error_body(error: ServiceError) -> dict[str, Any]:
    return {"code": error.code, "message": str(error), "args": list(error.args)}


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = next((status for kind, status in STATUS_OF.items() if isinstance(error, kind)), 500)
    return JSONResponse(_error_body(error), status_code=status)
