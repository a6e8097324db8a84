"""The engine protocol over HTTP, against a server that speaks it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    EngineBusy,
    EngineStarting,
    EngineUnavailable,
    GenerationFailed,
    InvalidParameter,
    PromptTooLong,
    ServiceError,
)
from core.serving.generation import (
    Conversation,
    Delta,
    FinishReason,
    GenerationRequest,
    PromptSource,
    Rendering,
    RenderRequest,
    SamplingParams,
    Turn,
    Usage,
    Variables,
)
from core.serving.http_engine import HttpEngine
from tests.app.conftest import serving
from tests.harness.stub_engine import ServedStub, StubEngine
from worker.inference.late_engine import LateEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app as create_engine_app
from worker.inference.start_phases import StartPhases

Told = TypeVar("Told")

REQUEST = GenerationRequest(id="r", prompt="a b", adapter=None, sampling=SamplingParams(max_tokens=8))


def wire(error: ServiceError) -> dict[str, Any]:
    return {"code": error.code, "message": str(error), "args": list(error.args)}


class Peer:
    """An engine process's side of the protocol, around a scripted engine."""

    def __init__(self) -> None:
        self.engine = StubEngine()
        self.chunks: list[bytes] | None = None  # sent as they are, in place of an answer
        self.left = asyncio.Event()

    def app(self) -> Starlette:
        routes = [
            Route("/generate", self._generate, methods=["POST"]),
            Route("/render", self._render, methods=["POST"]),
            Route("/warm", self._refuse, methods=["POST"]),
            Route("/unload", self._refuse, methods=["POST"]),
            Route("/info", self._info),
        ]
        return Starlette(routes=routes)

    async def _generate(self, request: Request) -> Response:
        generation = GenerationRequest.model_validate_json(await request.body())
        if self.engine.fails_before is not None:
            assert isinstance(self.engine.fails_before, ServiceError)
            return JSONResponse(wire(self.engine.fails_before), status_code=400)
        return StreamingResponse(self._lines(generation), media_type="application/x-ndjson")

    async def _lines(self, request: GenerationRequest) -> AsyncIterator[str | bytes]:
        try:
            if self.chunks is not None:
                for chunk in self.chunks:
                    yield chunk
                return
            async with aclosing(self.engine.generate(request)) as deltas:
                async for delta in deltas:
                    yield delta.model_dump_json() + "\n"
        except ServiceError as error:
            yield json.dumps({"error": wire(error)}) + "\n"
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _render(self, request: Request) -> Response:
        return JSONResponse({"text": "a"})

    async def _refuse(self, request: Request) -> Response:
        return JSONResponse(wire(AdapterInvalid("d" * 64, "damaged")), status_code=503)

    async def _info(self, request: Request) -> Response:
        return JSONResponse((await self.engine.info()).model_dump(mode="json"))


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def url(peer: Peer) -> Iterator[str]:
    with serving(peer.app()) as url:
        yield url


def answer(url: str, request: GenerationRequest = REQUEST) -> list[Delta]:
    async def collect() -> list[Delta]:
        engine = HttpEngine("tiny", url)
        try:
            return [delta async for delta in engine.generate(request)]
        finally:
            await engine.close()

    return asyncio.run(collect())


def test_deltas_arrive_as_the_engine_said_them(peer: Peer, url: str) -> None:
    deltas = answer(url)
    assert "".join(delta.text for delta in deltas) == " one two three"
    assert deltas[-1].usage is not None
    assert peer.engine.requests == [REQUEST]


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong(1, 2, 3),
        EngineBusy(4, 9),
        AdapterInvalid("d" * 64, "damaged"),
        AdapterMismatch("d" * 64, "another fingerprint"),
        GenerationFailed("x"),
        InvalidParameter("prompt", "has no tokens"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_the_engines_errors_are_raised_as_they_were(peer: Peer, url: str, error: ServiceError, is_late: bool) -> None:
    if is_late:
        peer.engine.fails_after = (1, error)
    else:
        peer.engine.fails_before = error
    with pytest.raises(type(error)) as raised:
        answer(url)
    assert raised.value.args == error.args


@pytest.mark.parametrize("lines", [[], ["{}"], ["not json"], ['{"error": 1}'], ["[]"]])
def test_what_is_no_answer_is_a_failure(peer: Peer, url: str, lines: list[str]) -> None:
    peer.chunks = [f"{line}\n".encode() for line in lines]
    with pytest.raises(GenerationFailed):
        answer(url)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_delta_is_whole_however_its_bytes_are_cut(peer: Peer, url: str, size: int) -> None:
    said = [
        Delta(text="a\u2028b\u0085\r", tokens=()),
        Delta(text="日\n", tokens=()),
        Delta(text="", tokens=(), finish_reason=FinishReason.END, usage=Usage(prompt_tokens=1, completion_tokens=1)),
    ]
    whole = b"".join(delta.model_dump_json().encode() + b"\n" for delta in said)
    peer.chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert answer(url) == said


def test_closing_the_generator_tells_the_engine(peer: Peer) -> None:
    async def leave_early() -> None:
        peer.engine.holds = asyncio.Event()
        server = uvicorn.Server(uvicorn.Config(peer.app(), port=0, log_config=None))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        engine = HttpEngine("tiny", f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        async with aclosing(engine.generate(REQUEST)) as deltas:
            await anext(deltas)
        await asyncio.wait_for(peer.left.wait(), timeout=20)
        await engine.close()
        server.should_exit = True
        await task

    asyncio.run(leave_early())
    assert peer.engine.cancelled == ["r"]


def test_a_unix_socket_is_spoken_to(peer: Peer, tmp_path: Path) -> None:
    async def ask() -> str:
        path = tmp_path / "engine.sock"
        server = uvicorn.Server(uvicorn.Config(peer.app(), uds=str(path), log_config=None))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        engine = HttpEngine("tiny", f"unix://{path}")
        base_model = (await engine.info()).base_model
        await engine.close()
        server.should_exit = True
        await task
        return base_model

    assert asyncio.run(ask()) == "tiny"


def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none.sock", "http://127.0.0.1:1"):
        with pytest.raises(EngineUnavailable, match="the engine for tiny does not answer"):
            answer(url)


Ask = Callable[[HttpEngine], Awaitable[Told]]


def ask(url: str, question: Ask[Told]) -> Told:
    async def answer() -> Told:
        engine = HttpEngine("tiny", url)
        try:
            return await question(engine)
        finally:
            await engine.close()

    return asyncio.run(answer())


@pytest.mark.parametrize("question", [lambda engine: engine.warm("d" * 64), lambda engine: engine.unload("d" * 64)])
def test_warming_and_unloading_raise_what_the_engine_says(url: str, question: Ask[None]) -> None:
    with pytest.raises(AdapterInvalid, match="damaged"):
        ask(url, question)


def test_the_engine_process_tells_its_numbers() -> None:
    metrics = EngineMetrics()
    metrics.adapter_evictions.inc()
    with serving(create_engine_app(ServedStub(), metrics)) as url:
        text = ask(url, HttpEngine.metrics)
    assert b"loramill_engine_adapter_evictions_total 1.0" in text.splitlines()


def test_an_engine_process_that_starts_says_what_it_is_at_to_whatever_is_asked() -> None:
    may_go_on, phases = threading.Event(), StartPhases(600)

    phases.enter("loading weights")

    def build() -> ServedStub:
        assert may_go_on.wait(60)
        return ServedStub()

    late = LateEngine("tiny", phases, build, on_failure=may_go_on.set)
    asks: list[Ask[object]] = [HttpEngine.info, HttpEngine.metrics, lambda engine: engine.warm("d" * 64)]
    with serving(create_engine_app(late, EngineMetrics(), phases=phases)) as url:
        try:
            for question in asks:
                with pytest.raises(EngineStarting, match="tiny is starting: loading weights for"):
                    ask(url, question)
            with pytest.raises(EngineStarting):
                answer(url)
        finally:
            may_go_on.set()
        while late.is_building:
            time.sleep(0.01)
        assert answer(url)[-1].finish_reason is FinishReason.END


def render(url: str, prompt: PromptSource) -> Rendering:
    return ask(url, lambda engine: engine.render(RenderRequest(prompt=prompt, adapter="e" * 64)))


def test_what_is_no_rendering_is_a_failure(url: str) -> None:
    with pytest.raises(GenerationFailed, match="not a rendering"):
        render(url, "a")


@pytest.mark.parametrize("is_late", [False, True])
def test_the_engine_process_is_understood(is_late: bool) -> None:
    engine = ServedStub()
    with serving(create_engine_app(engine, EngineMetrics())) as url:
        assert answer(url)[-1].finish_reason is FinishReason.END
        if is_late:
            engine.fails_after = (1, GenerationFailed("x"))
        else:
            engine.fails_before = GenerationFailed("x")
        with pytest.raises(GenerationFailed, match="generation failed: x"):
            answer(url)


@pytest.mark.parametrize(
    "prompt",
    [
        "a\u2028b",
        Variables(variables={"question": 1, "b": 1.0, "c": True, "d": None, "e": [{"f": "é"}]}),
        Conversation(messages=(Turn(role="user", content="a"), Turn(role="assistant", content="b"))),
    ],
)
def test_prompts_reach_the_engine_process_as_they_are(prompt: PromptSource) -> None:
    engine = ServedStub()
    with serving(create_engine_app(engine, EngineMetrics())) as url:
        rendering = render(url, prompt)
        answer(url, REQUEST.model_copy(update={"prompt": prompt, "adapter": "e" * 64}))
    assert repr(engine.renderings) == repr([RenderRequest(prompt=prompt, adapter="e" * 64)])
    assert repr(engine.requests[0].prompt) == repr(prompt)
    assert rendering.ids == tuple(range(len(rendering.text.split())))


def test_the_engine_process_says_which_column_is_missing() -> None:
    missing = pytest.raises(InvalidParameter, match='no column "question"')
    with serving(create_engine_app(ServedStub(), EngineMetrics())) as url, missing as raised:
        render(url, Variables(variables={}))
    assert raised.value.param == "variables"
