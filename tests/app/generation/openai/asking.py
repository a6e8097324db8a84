"""Asks for completions over HTTP, and takes their streams apart."""

from typing import Any

from starlette.testclient import TestClient

from tests.app.conftest import BASE


def complete(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/completions", json={"model": BASE, "prompt": "a b"} | fields)


def events_of(text: str) -> list[str]:
    assert text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
