"""The guard stands before every route of the app, those that are added later too; what pages are told; headers."""

import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr
from starlette.testclient import TestClient

from tests.app.conftest import BASE, LOCAL, ApiHarness, serving, upload

KEY = "correct-horse-battery"
PAGE = "https://app.example.org"
OUR_HOSTS = ("localhost", "127.0.0.1:8000", "[::1]:8000")
OTHER_HOSTS = ("evil.example", "127.0.0.1.evil.example:8000", "localhost.", "0.0.0.0:8000", "user@localhost")
FOREIGN = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)


def endpoints(harness: ApiHarness) -> list[tuple[str, str]]:
    """Give every method and path that the router serves."""
    found = [
        (method, re.sub(r"\{.*?\}", "x", context.path or ""))
        for context in iter_route_contexts(harness.app().routes)
        for method in sorted(context.methods or ())
    ]
    assert {("POST", "/v1/files"), ("POST", "/v1/fine_tuning/jobs/x/cancel"), ("GET", "/livez")} <= set(found)
    return found


@pytest.fixture
def locked(harness: ApiHarness) -> Iterator[TestClient]:
    harness.settings = harness.settings.model_copy(update={"api_key": SecretStr(KEY), "cors_origins": (PAGE,)})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        yield client


def test_without_a_key_every_route_answers_to_this_machines_names_only(client: TestClient, harness: ApiHarness) -> None:
    for method, path in [*endpoints(harness), ("GET", "/nowhere"), ("PUT", "/v1/files"), ("OPTIONS", "/v1/files")]:
        for host in OUR_HOSTS:
            assert client.request(method, path, headers={"host": host}).status_code != 421, (method, path, host)
        for host in OTHER_HOSTS:
            response = client.request(method, path, headers={"host": host})
            assert response.status_code == 421, (method, path, host)
            assert host in response.text
            assert "LORAMILL_ALLOWED_HOSTS" in response.text


def test_with_a_key_every_route_answers_to_the_named_hosts_only(harness: ApiHarness) -> None:
    named = {"api_key": SecretStr(KEY), "allowed_hosts": ("loramill.example.org",)}
    harness.settings = harness.settings.model_copy(update=named)
    with TestClient(harness.app(), base_url="https://loramill.example.org") as client:
        for method, path in endpoints(harness):
            assert client.request(method, path).status_code != 421
            assert client.request(method, path, headers={"host": "evil.example"}).status_code == 421


def test_every_route_that_changes_something_is_closed_to_foreign_pages(client: TestClient, harness: ApiHarness) -> None:
    for method, path in endpoints(harness):
        for headers in FOREIGN:
            response = client.request(method, path, headers=headers)
            is_refused = (response.status_code, "LORAMILL_CORS_ORIGINS" in response.text) == (403, True)
            assert is_refused == (method != "GET"), (method, path, headers, response.text)
        own = {"origin": LOCAL, "sec-fetch-site": "same-origin"}
        assert client.request(method, path, headers=own).status_code != 403


def test_a_refusal_travels_in_the_envelope_of_its_path(client: TestClient) -> None:
    foreign = {"origin": "https://evil.example"}
    error = client.post("/v1/files", headers=foreign).json()["error"]
    assert (error["code"], error["type"]) == ("origin_not_allowed", "invalid_request_error")
    assert client.get("/v1/files", headers={"host": "evil.example"}).json()["error"]["code"] == "host_not_allowed"
    assert client.post("/generate", headers=foreign).json().keys() == {"error", "error_type"}


def test_a_foreign_form_uploads_nothing(client: TestClient, harness: ApiHarness) -> None:
    client.headers["origin"] = "https://evil.example"
    assert upload(client).status_code == 403
    assert harness.stored_bytes() == []


def test_a_named_page_is_told_that_it_may_ask_and_what_was_answered(locked: TestClient) -> None:
    asks = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    preflight = locked.options("/v1/completions", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for headers, status in (({}, 401), ({"authorization": f"Bearer {KEY}"}, 200)):
        page = {"origin": PAGE, "sec-fetch-site": "cross-site"}
        answer = locked.post("/v1/completions", json={"model": BASE, "prompt": "a"}, headers={**page, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "origin" in answer.headers["vary"].lower()
        assert "access-control-allow-credentials" not in answer.headers


def test_no_other_page_is_told_anything(locked: TestClient, client: TestClient) -> None:
    asks = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for asked in (locked, client):
        for response in (asked.options("/v1/completions", headers=asks), asked.get("/livez", headers=asks)):
            assert "access-control-allow-origin" not in response.headers


def test_every_answer_forbids_to_guess_its_type(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    answers = [client.request(method, path) for method, path in endpoints(harness)]
    answers += [client.get("/nowhere"), client.put("/v1/files"), client.get("/livez", headers={"host": "evil.example"})]
    answers.append(client.get(f"/v1/files/{file_id}/content"))
    assert {answer.headers.get("x-content-type-options") for answer in answers} == {"nosniff"}


def test_a_files_content_is_saved_never_shown(client: TestClient) -> None:
    page = b'{"prompt": "<script>alert(1)</script>", "completion": "x"}\n'
    file_id = upload(client, page, filename="page.html").json()["id"]
    response = client.get(f"/v1/files/{file_id}/content")
    assert response.content == page
    assert response.headers["content-disposition"] == "attachment"
    assert response.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", 200),
        (b"GET /livez HTTP/1.0\r\nHost: localhost\r\n", 200),
        (b"GET /livez HTTP/1.0\r\n", 421),
        (b"GET /livez HTTP/1.1\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n", 421),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n", 400),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: evil.example\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 400),
        (b"GET //evil.example/livez HTTP/1.1\r\nHost: localhost\r\n", 404),
    ],
)
def test_what_is_sent_is_judged_as_it_is(harness: ApiHarness, head: bytes, status: int) -> None:
    with serving(harness.app()) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
            connection.sendall(head + b"Connection: close\r\n\r\n")
            assert connection.recv(4096).split()[1] == str(status).encode()
