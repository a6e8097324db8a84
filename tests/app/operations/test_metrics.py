"""What the API tells Prometheus."""

import asyncio
import time

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from core.errors import GenerationFailed
from tests.app.conftest import BASE, LOCAL, ApiHarness, serving
from tests.harness.stub_engine import StubEngine

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def read(client: httpx2.Client, name: str) -> dict[tuple[str, ...], float]:
    """Give a metric's values by their labels' values."""
    response = client.get("/metrics")
    assert response.headers["content-type"] == TEXT
    return {
        tuple(sample.labels[label] for label in ("route", "method", "status") if label in sample.labels): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == f"loramill_api_{name}"
    }


def complete(client: TestClient, *, stream: bool) -> None:
    client.post("/v1/completions", json={"model": BASE, "prompt": "a", "max_tokens": 8, "stream": stream})


def test_requests_are_counted_by_route_method_and_status(client: TestClient) -> None:
    for name in (BASE, "a/b", "c"):
        client.get(f"/v1/models/{name}")
    client.delete(f"/v1/models/{BASE}")
    counts = read(client, "requests_total")
    assert counts["/v1/models/{name:path}", "GET", "200"] == 1
    assert counts["/v1/models/{name:path}", "GET", "404"] == 2
    assert counts["/v1/models/{name:path}", "DELETE", "409"] == 1


def test_made_up_paths_and_methods_add_no_labels(client: TestClient) -> None:
    for number in range(5):
        client.request(f"M{number}", f"/nothing/{number}")
    assert [(labels, count) for labels, count in read(client, "requests_total").items() if labels[0] == "none"] == [
        (("none", "other", "404"), 5)
    ]


def test_a_stream_is_open_until_its_last_event(harness: ApiHarness) -> None:
    harness.engine.holds = asyncio.Event()  # never set, so the stream stays open until the client leaves
    body = {"model": BASE, "prompt": "a", "max_tokens": 8, "stream": True}
    with serving(harness.app()) as url, httpx2.Client(base_url=url, timeout=30) as client:
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()  # held, because without it the stream would be closed
            assert next(lines).startswith("data: ")
            assert read(client, "open_streams") == {(): 1}
            assert read(client, "open_requests") == {(): 2}  # and the one that asks
        while read(client, "open_streams") != {(): 0}:
            time.sleep(0.01)
    assert harness.engine.cancelled


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_fails_is_not_left_open(harness: ApiHarness, stream: bool) -> None:
    harness.engine.fails_after = (1, GenerationFailed("injected"))
    with TestClient(harness.app(), base_url=LOCAL) as client:
        complete(client, stream=stream)
        assert read(client, "open_streams") == {(): 0}
        assert read(client, "open_requests") == {(): 1}  # the one that asks


class CountingEngine(StubEngine):
    """An engine that tells its numbers."""

    async def metrics(self) -> bytes:
        return b"loramill_engine_waiting_requests 3.0\n"


def test_an_engines_numbers_are_passed_on(harness: ApiHarness) -> None:
    harness.engine = CountingEngine()
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = client.get(f"/metrics/{BASE}")
    assert response.headers["content-type"] == TEXT
    assert response.text == "loramill_engine_waiting_requests 3.0\n"


def test_an_engine_that_tells_no_numbers_is_404(client: TestClient) -> None:
    response = client.get(f"/metrics/{BASE}")
    assert response.status_code == 404
    assert "ask that engine itself" in response.json()["error"]["message"]


def test_a_base_model_without_an_engine_is_503(harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "phi-9")})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        assert client.get("/metrics/phi-9").status_code == 503


def test_a_base_model_that_there_is_not_has_no_numbers(client: TestClient) -> None:
    answer = client.get("/metrics/unknown")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
