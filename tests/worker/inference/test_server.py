"""The engine's internal HTTP over real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.routing import Route

from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    EngineBusy,
    GenerationFailed,
    InvalidParameter,
    PromptTooLong,
    ServiceError,
)
from core.listening.origin_guard import OriginGuard
from core.serving.admission import Load
from core.serving.generation import (
    Delta,
    EngineInfo,
    FinishReason,
    GenerationRequest,
    Rendering,
    RenderRequest,
    Token,
    Usage,
)
from core.settings import Settings
from tests.worker.inference.engine_harness import EngineHarness, gather, make_request
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import ServedEngine, create_app
from worker.inference.start_phases import StartPhases

ONE = Delta(text="a", tokens=(Token(id=97, text="a", logprob=-0.5, special=False),))
LAST = Delta(text="", tokens=(), finish_reason=FinishReason.END, usage=Usage(prompt_tokens=1, completion_tokens=1))


class ScriptedEngine:
    """Yields a script of deltas; an error in it is raised, and None waits until the request is cancelled."""

    def __init__(self, *script: Delta | ServiceError | None) -> None:
        self.script = script
        self.is_alive = True
        self.waiting_by_adapter: dict[str | None, Load] = {None: Load(1, 5), "a" * 64: Load(2, 25)}
        self.reached_wait = threading.Event()
        self.cancelled = threading.Event()
        self.warmed: list[str] = []
        self.unloaded: list[str] = []

    async def generate(self, _request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        for step in self.script:
            if isinstance(step, ServiceError):
                raise step
            if step is None:
                self.reached_wait.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            else:
                yield step

    async def render(self, request: RenderRequest) -> Rendering:
        if isinstance(self.script[0], ServiceError):
            raise self.script[0]
        return Rendering(text=str(request.prompt), ids=(97, 98), moved=" ")

    async def warm(self, adapter: str) -> None:
        if isinstance(self.script[0], ServiceError):
            raise self.script[0]
        self.warmed.append(adapter)

    async def unload(self, adapter: str) -> None:
        if isinstance(self.script[0], ServiceError):
            raise self.script[0]
        self.unloaded.append(adapter)

    async def info(self) -> EngineInfo:
        return EngineInfo(
            base_model="stub",
            fingerprint="f",
            context_tokens=8,
            device="cpu",
            dtype="float32",
            max_batch=4,
            resident_adapters=(),
            resident_adapter_bytes=0,
            loading_adapters=0,
            waiting_requests=3,
            waiting_tokens=0,
            running_requests=0,
            kv_bytes=0,
            kv_limit_bytes=0,
            prefill_tokens_per_s=0,
            decode_tokens_per_s=0,
        )

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


@contextmanager
def serving(
    engine: ServedEngine, metrics: EngineMetrics | None = None, phases: StartPhases | None = None
) -> Iterator[httpx2.Client]:
    """Serve the engine on a free port of the loopback; give a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(engine, metrics or EngineMetrics(), OriginGuard.of_engine("127.0.0.1", Settings()), phases)
    config = uvicorn.Config(app, http="h11", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    host, port = listener.getsockname()
    try:
        with httpx2.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
            while not server.started:
                time.sleep(0.01)
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def post(client: httpx2.Client, **sampling: Any) -> httpx2.Response:
    return client.post("/generate", json=make_request("x", **sampling).model_dump(mode="json"))


def test_deltas_come_as_lines_of_json(harness: EngineHarness) -> None:
    with serving(harness.make_engine()) as client:
        response = post(client, max_tokens=5)
        info = EngineInfo.model_validate_json(client.get("/info").content)
        assert client.get("/readyz").status_code == 200
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    answer = gather([Delta.model_validate_json(line) for line in response.content.splitlines()])
    assert answer.ids == harness.peft_greedy(None, b"x", 5)
    assert (info.base_model, info.context_tokens) == ("tiny-phi", 256)


def test_only_a_line_feed_ends_a_line_whatever_the_text_is() -> None:
    text = "a\r\n\u0085\u2028\u2029\u000b日"
    with serving(ScriptedEngine(ONE.model_copy(update={"text": text}), LAST)) as client:
        *lines, rest = post(client).content.split(b"\n")
    assert [Delta.model_validate_json(line).text for line in lines] == [text, ""]
    assert rest == b""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PromptTooLong(9, 1, 8), 400),
        (InvalidParameter("stop", "empty"), 400),
        (EngineBusy(7, 2), 429),
        (AdapterInvalid("a" * 64, "damaged"), 503),
        (AdapterMismatch("a" * 64, "another fingerprint"), 409),
        (GenerationFailed("injected"), 503),
    ],
)
def test_an_error_before_the_first_delta_has_a_status(error: ServiceError, status: int) -> None:
    with serving(ScriptedEngine(error)) as client:
        asked = {"prompt": "x", "adapter": None}
        told = [client.post(path, json={"adapter": "a" * 64}) for path in ("/warm", "/unload")]
        for response in (post(client), *told, client.post("/render", json=asked)):
            assert response.status_code == status
            assert response.json() == {"code": error.code, "message": str(error), "args": list(error.args)}


def test_an_error_after_the_first_delta_is_the_last_line() -> None:
    with serving(ScriptedEngine(ONE, GenerationFailed("injected"))) as client:
        response = post(client)
    lines = [json.loads(line) for line in response.content.splitlines()]
    assert response.status_code == 200
    assert lines[0]["text"] == "a"
    expected = {"code": "generation_failed", "message": "generation failed: injected", "args": ["injected"]}
    assert lines[1:] == [{"error": expected}]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"id": "x"}', b'{"id":"x","prompt":"y","adapter":null,"sampling":{"best":1}}']
)
def test_a_malformed_body_is_the_callers_fault(body: bytes) -> None:
    with serving(ScriptedEngine(LAST)) as client:
        response = client.post("/generate", content=body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("before", [(), (ONE,)], ids=["before-the-first-delta", "between-deltas"])
def test_a_client_that_leaves_cancels_its_request(before: tuple[Delta, ...]) -> None:
    engine = ScriptedEngine(*before, None)
    body = make_request("x").model_dump_json().encode()
    head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(engine) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            connection.sendall(head + body)
            assert engine.reached_wait.wait(timeout=30)
            assert not engine.cancelled.is_set()
        assert engine.cancelled.wait(timeout=30)
        engine.script = (LAST,)
        assert post(client).status_code == 200


def test_a_rendering_is_one_json_object() -> None:
    with serving(ScriptedEngine(LAST)) as client:
        response = client.post("/render", json={"prompt": "é", "adapter": None})
    assert response.json() == {"text": "é", "ids": [97, 98], "moved": " "}


def test_warming_and_unloading_name_the_adapter() -> None:
    engine = ScriptedEngine(LAST)
    with serving(engine) as client:
        for path, digest in (("/warm", "a" * 64), ("/unload", "b" * 64)):
            assert client.post(path, json={"adapter": digest}).json() == {"adapter": digest}
    assert (engine.warmed, engine.unloaded) == (["a" * 64], ["b" * 64])


def readiness(client: httpx2.Client) -> tuple[int, Any]:
    response = client.get("/readyz")
    return response.status_code, response.json()


def test_a_dead_engine_is_not_ready() -> None:
    engine = ScriptedEngine(LAST)
    with serving(engine) as client:
        assert readiness(client) == (200, {"ready": True})
        engine.is_alive = False
        assert readiness(client) == (503, {"ready": False})


@pytest.mark.parametrize(("stall_s", "status"), [(60, 200), (0.01, 503)])
def test_an_engine_is_not_ready_while_a_step_takes_too_long(
    harness: EngineHarness, stall_s: float, status: int
) -> None:
    engine = harness.make_engine(engine_stall_s=stall_s)
    with serving(engine) as client:
        engine.heartbeat.beat()
        time.sleep(0.05)
        assert readiness(client)[0] == status
        engine.heartbeat.rest()
        assert readiness(client)[0] == 200


def test_metrics_are_the_engines_own_and_its_present_load() -> None:
    engine, metrics = ScriptedEngine(LAST), EngineMetrics()
    metrics.adapter_evictions.inc()
    with serving(engine, metrics) as client:
        response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.text.splitlines()
    for name, value in (
        ("waiting_requests", 3),
        ("adapter_evictions_total", 1),
        ('queued_tokens{adapter="none"}', 5),
        ('queued_requests{adapter="aaaaaaaaaaaa"}', 2),
    ):
        assert f"loramill_engine_{name} {float(value)}" in lines


ROUTES = ("/generate", "/render", "/warm", "/unload", "/info", "/metrics", "/readyz")


def test_every_route_on_tcp_answers_to_known_hosts_and_to_no_page() -> None:
    app = create_app(ScriptedEngine(LAST), EngineMetrics())
    assert {route.path for route in app.routes if isinstance(route, Route)} == set(ROUTES)
    with serving(ScriptedEngine(LAST)) as client:
        for path in ROUTES:
            for method in ("GET", "POST"):
                rebound = client.request(method, path, headers={"host": "evil.example"})
                assert (rebound.status_code, rebound.json()["code"]) == (421, "host_not_allowed")
            foreign = client.post(path, headers={"origin": "https://evil.example"})
            assert (foreign.status_code, foreign.json()["code"]) == (403, "origin_not_allowed")
