"""Each part of a request that could be long is refused by name, and says what is allowed."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, ApiHarness

COMPLETION = {"model": BASE, "prompt": "a"}
PART = {"type": "text", "text": ""}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/completions", COMPLETION | {"stop": "a" * 1025}, "stop.0: string should have at most 1024 characters"),
        ("/v1/completions", COMPLETION | {"model": "a" * 513}, "model: string should have at most 512 characters"),
        ("/v1/completions", COMPLETION | {"prompt": ["a"] * 65}, "prompt: there are 65 prompts; at most 64"),
        ("/v1/completions", COMPLETION | {"prompt": [1, -1]}, "prompt: must be a text, a list of texts"),
        ("/v1/completions", COMPLETION | {"prompt": [1, True]}, "prompt: must be a text, a list of texts"),
        (
            "/v1/chat/completions",
            {"model": BASE, "messages": [{"role": "user", "content": [PART] * 1025}]},
            "messages.0.content: has 1025 parts; at most 1024",
        ),
        ("/generate", {"inputs": "a", "parameters": {"stop": ["a" * 1025]}}, "stop.0: string should have at most 1024"),
        ("/generate", {"variables": {str(n): 1 for n in range(1025)}}, "variables: has 1025 names; at most 1024"),
    ],
)
def test_what_is_too_long_is_named(
    client: TestClient, harness: ApiHarness, path: str, body: dict[str, Any], says: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert says in response.text
    assert harness.engine.requests == []
