"""Aliases over HTTP as tests move them, over two versions of one family."""

from typing import Any

import httpx2
from starlette.testclient import TestClient

from tests.app.conftest import ApiHarness
from tests.harness.models.published_model import publish

PATH = "/v1/models/aliases"
NAME = "support-bot@prod"
FIRST, SECOND = "ft:tiny:local:bot:1", "ft:tiny:local:bot:2"
DIGESTS = {FIRST: "1" * 64, SECOND: "2" * 64}


def publish_two(harness: ApiHarness) -> None:
    for name, digest in DIGESTS.items():
        with harness.database.write() as session:
            publish(session, name, digest=digest, suffix="bot")


def put(client: TestClient, model: str, name: str = NAME, **fields: Any) -> httpx2.Response:
    return client.put(f"{PATH}/{name}", json={"model": model} | fields)


def refusal(response: httpx2.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]
