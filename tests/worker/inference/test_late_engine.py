"""An engine that is being built says so to whoever asks, and is asked itself from the moment it is there."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from core.errors import BaseModelInvalid, EngineStarting
from tests.worker.inference.engine_harness import make_request
from tests.worker.inference.test_server import LAST, ONE, ScriptedEngine, serving
from worker.inference.late_engine import LateEngine
from worker.inference.server import ServedEngine
from worker.inference.start_phases import StartPhases

WITHIN_S = 60


class HeldBuild:
    """Builds an engine as soon as it may go on, or fails then."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.phases = StartPhases(600)
        self.may_go_on = threading.Event()
        self.failed = threading.Event()
        self.built = ScriptedEngine(ONE, LAST)
        self.started: list[str] = []
        self._failure = failure
        self.engine = LateEngine("tiny", self.phases, self._build, on_failure=self.failed.set)

    def _build(self) -> ServedEngine:
        self.phases.enter("loading weights")
        assert self.may_go_on.wait(WITHIN_S)
        if self._failure is not None:
            raise self._failure
        self.built.start = lambda: self.started.append(threading.current_thread().name)  # type: ignore[method-assign]
        return self.built


@pytest.fixture
def build() -> HeldBuild:
    return HeldBuild()


@contextmanager
def served(build: HeldBuild) -> Iterator[httpx2.Client]:
    with serving(build.engine, phases=build.phases) as client:
        try:
            yield client
        finally:
            build.may_go_on.set()


def await_that(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_while_it_is_built_every_route_says_what_the_start_is_at(build: HeldBuild) -> None:
    body = make_request("x").model_dump(mode="json")
    asks: list[tuple[str, str, object]] = [
        ("GET", "/info", None),
        ("GET", "/metrics", None),
        ("POST", "/generate", body),
        ("POST", "/render", {"prompt": "x", "adapter": None}),
        ("POST", "/warm", {"adapter": "a" * 64}),
        ("POST", "/unload", {"adapter": "a" * 64}),
    ]
    with served(build) as client:
        await_that(lambda: "loading weights" in str(build.phases))
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"ready": False, "phase": "loading weights for 0 s"}
        for method, path, content in asks:
            response = client.request(method, path, json=content)
            assert response.status_code == 503, path
            assert response.json()["code"] == EngineStarting.code
            assert response.json()["message"].startswith("the engine for tiny is starting: loading weights for")


def test_once_it_is_built_it_answers(build: HeldBuild) -> None:
    with served(build) as client:
        build.may_go_on.set()
        await_that(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json() == {"ready": True}
        answer = client.post("/generate", json=make_request("x").model_dump(mode="json"))
        assert len(answer.text.splitlines()) == 2
        assert build.started == ["build"]
        assert build.phases.is_over


@pytest.mark.parametrize("failure", [BaseModelInvalid("it has no weights"), RuntimeError("no weights at all")])
def test_one_that_cannot_be_built_says_so_and_ends(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    build = HeldBuild(failure)
    with caplog.at_level(logging.ERROR), served(build) as client:
        build.may_go_on.set()
        assert build.failed.wait(WITHIN_S)
        assert build.engine.has_failed
        assert client.get("/readyz").status_code == 503
    [record] = [record for record in caplog.records if "cannot start" in record.getMessage()]
    assert str(failure) in (record.getMessage() + str(record.exc_info))


def test_one_that_is_closed_before_it_is_built_is_not_started(build: HeldBuild) -> None:
    build.engine.start()
    asyncio.run(build.engine.close())
    build.may_go_on.set()
    await_that(lambda: not build.engine.is_building)
    assert build.started == []
    assert not build.engine.is_alive
