"""An API whose base model an engine answers for, as evaluations need one, and experiments on it."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from core.settings import Settings
from tests.app.conftest import BASE, upload

Post = Callable[..., httpx2.Response]


def rows(first: int, last: int) -> bytes:
    return b"".join(b'{"prompt": "p%d", "completion": " c%d"}\n' % (n, n) for n in range(first, last))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})


@pytest.fixture
def training_id(client: TestClient) -> str:
    """Id of a file of 400 examples, so that a tenth is fewer than a verdict needs."""
    return str(upload(client, rows(0, 400)).json()["id"])


@pytest.fixture
def judge_id(client: TestClient) -> str:
    """Id of a file of 120 other examples."""
    return str(upload(client, rows(1000, 1120)).json()["id"])


@pytest.fixture
def post(client: TestClient, training_id: str) -> Post:
    """Ask for the question of labels on the training file, unless something else is said."""

    def post(where: str = "", *, job: dict[str, Any] | None = None, key: str | None = None, **fields: Any) -> Any:
        body = {"job": {"model": BASE, "training_file": training_id} | (job or {})}
        body |= fields if {"arms", "grid", "random"} & fields.keys() else {"question": "labels"} | fields
        headers = {} if key is None else {"Idempotency-Key": key}
        return client.post(f"/v1/experiments{where}", json=body, headers=headers)

    return post
