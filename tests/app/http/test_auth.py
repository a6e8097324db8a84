"""Who gets in: every route but the health checks wants the key, where there is one."""

import asyncio
import re
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.http.auth import wants_key
from core.store import files
from tests.app.conftest import BASE, LOCAL, ApiHarness, upload

KEY = "correct-horse-battery"
PUBLIC = {"/livez", "/readyz", "/health"}


@pytest.fixture
def locked_harness(harness: ApiHarness) -> ApiHarness:
    harness.settings = harness.settings.model_copy(update={"api_key": SecretStr(KEY)})
    return harness


def test_every_route_but_the_health_checks_depends_on_the_caller(harness: ApiHarness) -> None:
    open_paths: set[str | None] = set()
    closed_paths: set[str | None] = set()
    for context in iter_route_contexts(harness.app().routes):
        dependant = context.dependant
        assert isinstance(context.original_route, APIRoute), f"{context.path} is not one of our own routes"
        (closed_paths if wants_key(dependant) else open_paths).add(context.path)
    assert open_paths == PUBLIC
    assert {"/", "/generate", "/v1/files", "/v1/completions", "/openapi.json"} <= closed_paths


def test_every_route_answers_401_without_the_key(locked_harness: ApiHarness) -> None:
    app = locked_harness.app()
    with TestClient(app, base_url=LOCAL) as client:
        for context in iter_route_contexts(app.routes):
            path = re.sub(r"\{.*?\}", "x", context.path or "")
            for method in sorted(context.methods or ()):
                status = client.request(method, path).status_code
                assert (status != 401) == (path in PUBLIC), f"{method} {path}: {status}"


@pytest.mark.parametrize(
    "header", [None, "", f"Bearer {KEY}x", "Bearer ", f"Basic {KEY}", KEY, "Bearer ключ", f"Bearer  x {KEY}"]
)
def test_a_wrong_key_is_401_in_the_envelope(locked_harness: ApiHarness, header: str | None) -> None:
    with TestClient(locked_harness.app(), base_url=LOCAL) as client:
        raw = None if header is None else header.encode()
        response = client.get("/v1/models", headers={} if raw is None else {b"Authorization": raw})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_the_text_generation_wire_has_its_own_envelope(locked_harness: ApiHarness) -> None:
    with TestClient(locked_harness.app(), base_url=LOCAL) as client:
        response = client.post("/generate", json={"inputs": "a"})
    assert (response.status_code, response.json()["error_type"]) == (401, "authentication")


def test_the_right_key_names_the_caller_without_telling_the_key(locked_harness: ApiHarness) -> None:
    with TestClient(locked_harness.app(), base_url=LOCAL, headers={"Authorization": f"Bearer {KEY}"}) as client:
        file_id = upload(client).json()["id"]
        client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
    with locked_harness.database.read() as session:
        caller = files.get(session, file_id).caller
    assert re.fullmatch("[0-9a-f]{12}", caller)


def test_without_a_key_everyone_is_anonymous(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    with harness.database.read() as session:
        assert files.get(session, file_id).caller == "anonymous"


async def _forbidden_body() -> Any:
    raise AssertionError("the body was read")


def test_nothing_of_a_strangers_body_is_read(locked_harness: ApiHarness) -> None:
    app = locked_harness.app()
    served = [
        (method, re.sub(r"\{.*?\}", "x", context.path or ""))
        for context in iter_route_contexts(app.routes)
        for method in sorted(context.methods or ())
        if context.path not in PUBLIC
    ]
    expected = dict.fromkeys(served, 401) | {("POST", "/nowhere"): 404, ("PATCH", "/v1/files"): 405}
    found = {}

    async def ask(method: str, path: str) -> None:
        async def note(message: Any) -> None:
            if message["type"] == "http.response.start":
                found[method, path] = int(message["status"])

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"9")]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": ""}
        await app({**scope, "query_string": b"limit=wrong", "headers": headers}, _forbidden_body, note)

    async def ask_all() -> None:
        async with app.router.lifespan_context(app):
            for method, path in expected:
                await ask(method, path)

    asyncio.run(ask_all())
    assert found == expected
