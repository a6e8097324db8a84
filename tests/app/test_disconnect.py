"""Clients that leave: over a real socket, as no in-process client can."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.app.conftest import BASE, ApiHarness, serving

TURNS = [{"role": "user", "content": "a"}]


@pytest.fixture
def address(harness: ApiHarness) -> Iterator[tuple[str, int]]:
    harness.engine.holds = asyncio.Event()  # never set: the engine says one word and then nothing
    with serving(harness.app()) as url:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port


def request(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s, "nothing happened within 30 s"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": BASE, "prompt": ["a", "b"]}),
        ("/v1/completions", {"model": BASE, "prompt": ["a", "b"], "stream": True}),
        ("/v1/chat/completions", {"model": BASE, "max_tokens": 8, "messages": TURNS}),
        ("/v1/chat/completions", {"model": BASE, "max_tokens": 8, "messages": TURNS, "stream": True}),
        ("/generate", {"inputs": "a"}),
        ("/generate_stream", {"inputs": "a"}),
    ],
)
def test_the_engines_work_is_cancelled_when_the_client_leaves(
    harness: ApiHarness, address: tuple[str, int], path: str, body: dict[str, object]
) -> None:
    expected = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1  # type: ignore[arg-type]
    with socket.create_connection(address) as client:
        client.sendall(request(path, body))
        wait_until(lambda: len(harness.engine.requests) == expected)
    wait_until(lambda: len(harness.engine.cancelled) == expected)


def test_an_upload_that_says_it_is_too_large_is_refused_before_it_is_sent(
    harness: ApiHarness, address: tuple[str, int]
) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(address) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert harness.stored_bytes() == []


def test_an_upload_cut_off_leaves_nothing(harness: ApiHarness, address: tuple[str, int]) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 60000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    with socket.create_connection(address) as client:
        client.sendall(head.encode() + b"x" * 1000)
        wait_until(lambda: len(harness.stored_bytes()) == 1)  # the unfinished one
    wait_until(lambda: harness.stored_bytes() == [])
