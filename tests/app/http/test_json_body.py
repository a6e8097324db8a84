"""How much JSON a request may have, over real sockets: a client that sends more reads why."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from app.http.json_body import MAX_BODY_BYTES
from tests.app.conftest import BASE, ApiHarness, serving

BEGINNING = b'{"model": "%s", "max_tokens": 1, "prompt": "' % BASE.encode()
END = b'"}'


@pytest.fixture
def address(harness: ApiHarness) -> Iterator[str]:
    with serving(harness.app()) as url:
        yield urlsplit(url).netloc


def body_of(size: int) -> bytes:
    return BEGINNING + b"a" * (size - len(BEGINNING) - len(END)) + END


def post(address: str, body: bytes | Iterator[bytes]) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        chunked = not isinstance(body, bytes)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_more_is_413_with_the_limit(address: str, harness: ApiHarness, size: int, is_chunked: bool) -> None:
    body = body_of(size)
    pieces = (body[start : start + 2**20] for start in range(0, size, 2**20))
    status, answer = post(address, pieces if is_chunked else body)
    assert status == 413
    assert b"the body is larger than 8,388,608 bytes" in answer
    assert harness.engine.requests == []


def test_as_much_is_read(address: str, harness: ApiHarness) -> None:
    status, _ = post(address, body_of(MAX_BODY_BYTES))
    assert status == 200
    [request] = harness.engine.requests
    assert len(str(request.prompt)) == MAX_BODY_BYTES - len(BEGINNING) - len(END)
