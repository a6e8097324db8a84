"""The engine's internal HTTP: generate, render, warm, unload, info, metrics, readyz, on loopback or a private network.

Translates between the wire and ``core.serving.generation.Engine``; knows neither the model nor who asks.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final, Protocol, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import InvalidParameter, ServiceError
from core.listening.origin_guard import OriginGuard
from core.serving.admission import Load
from core.serving.error_wire import error_body
from core.serving.generation import Delta, Engine, GenerationRequest, RenderRequest
from core.values import Frozen
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.start_phases import StartPhases

_DELTA: Final = TypeAdapter(Delta)

RequestBody = TypeVar("RequestBody", bound=Frozen)


class ServedEngine(Engine, Protocol):
    """An engine of this process: it is started, can die, and is closed."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]: ...

    def start(self) -> None: ...

    @property
    def is_alive(self) -> bool:
        """False once it has ended, or while it hangs in a step."""
        ...

    @property
    def waiting_by_adapter(self) -> Mapping[str | None, Load]:
        """What waits for each adapter, by its digest; None is the base model."""
        ...

    async def close(self) -> None: ...


class AdapterRequest(Frozen):
    """Body of POST /warm and POST /unload."""

    adapter: str


def create_app(
    engine: ServedEngine, metrics: EngineMetrics, guard: OriginGuard | None = None, phases: StartPhases | None = None
) -> Starlette:
    """Make the ASGI app of an engine; the engine runs as long as the app does. ``metrics`` is what it reports to.

    ``guard`` is None where the app listens on a Unix socket: no page reaches one, and its folder says who may.
    ``phases`` are what its start is at; None: it has started.
    """
    handlers = _Handlers(engine, metrics, phases)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.close()

    routes = [
        Route("/generate", handlers.generate, methods=["POST"]),
        Route("/render", handlers.render, methods=["POST"]),
        Route("/warm", handlers.warm, methods=["POST"]),
        Route("/unload", handlers.unload, methods=["POST"]),
        Route("/info", handlers.info),
        Route("/metrics", handlers.metrics),
        Route("/readyz", handlers.readyz),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={ServiceError: _answer_error},
        middleware=[] if guard is None else [Middleware(_OriginGuardMiddleware, guard=guard)],
    )


class _OriginGuardMiddleware:
    """Answers what the guard refuses, before any route."""

    def __init__(self, app: ASGIApp, guard: OriginGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._guard.check(scope)
            except ServiceError as refusal:
                await _error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Handlers:
    """What each route answers."""

    def __init__(self, engine: ServedEngine, metrics: EngineMetrics, phases: StartPhases | None) -> None:
        self._engine = engine
        self._metrics = metrics
        self._phases = phases

    async def generate(self, request: Request) -> "DeltaStream":
        return DeltaStream(self._engine.generate(await _read_body(request, GenerationRequest)))

    async def render(self, request: Request) -> Response:
        rendering = await self._engine.render(await _read_body(request, RenderRequest))
        return JSONResponse(rendering.model_dump(mode="json"))

    async def warm(self, request: Request) -> Response:
        body = await _read_body(request, AdapterRequest)
        await self._engine.warm(body.adapter)
        return JSONResponse({"adapter": body.adapter})

    async def unload(self, request: Request) -> Response:
        body = await _read_body(request, AdapterRequest)
        await self._engine.unload(body.adapter)
        return JSONResponse({"adapter": body.adapter})

    async def info(self, _request: Request) -> Response:
        return JSONResponse((await self._engine.info()).model_dump(mode="json"))

    async def metrics(self, _request: Request) -> Response:
        self._metrics.observe(await self._engine.info())
        self._metrics.queue.show(self._engine.waiting_by_adapter)
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def readyz(self, _request: Request) -> Response:
        ready = self._engine.is_alive
        is_starting = self._phases is not None and not self._phases.is_over
        phase = {"phase": str(self._phases)} if is_starting else {}
        return JSONResponse({"ready": ready, **phase}, status_code=200 if ready else 503)


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
            await _send_line(send, _DELTA.dump_json(first))
            try:
                async for delta in deltas:
                    await _send_line(send, _DELTA.dump_json(delta))
            except ServiceError as error:
                await _send_line(send, json.dumps({"error": error_body(error)}).encode())
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_line(send: Send, line: bytes) -> None:
    # A line ends at b"\n" alone: U+0085 and U+2028, at which many clients break too, stand in it as they are.
    await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})


async def _await_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, kind: type[RequestBody]) -> RequestBody:
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidParameter(".".join(map(str, first["loc"])), first["msg"]) from error


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return _error_response(error)


def _error_response(error: ServiceError) -> Response:
    return JSONResponse(error_body(error), status_code=error.status)
