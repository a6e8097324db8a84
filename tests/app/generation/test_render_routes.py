"""/v1/render, on a scripted engine."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import AdapterInvalid, AdapterMismatch, EngineUnavailable, ServiceError
from core.serving.generation import Conversation, RenderRequest, Turn, Variables
from tests.app.conftest import BASE, ApiHarness
from tests.harness.models.published_model import publish

MODEL = "ft:x"
DIGEST = "e" * 64


@pytest.fixture(autouse=True)
def _adapter(harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, MODEL, digest=DIGEST)


def render(client: TestClient, model: str = MODEL, **prompt: Any) -> Any:
    return client.post("/v1/render", json={"model": model, **prompt})


def test_text_and_ids_are_those_of_the_engine(client: TestClient, harness: ApiHarness) -> None:
    assert render(client, variables={"question": "why not"}).json() == {
        "object": "render",
        "model": MODEL,
        "text": "Q why not A",
        "input_ids": [0, 1, 2, 3],
        "moved_whitespace": "",
        "prompt_tokens": 4,
    }
    variables = Variables(variables={"question": "why not"})
    assert harness.engine.renderings == [RenderRequest(prompt=variables, adapter=DIGEST)]


def test_prompts_and_messages_are_rendered_too(client: TestClient, harness: ApiHarness) -> None:
    assert render(client, BASE, prompt=" a b ").json()["text"] == " a b "
    render(client, messages=[{"role": "user", "content": "a"}])
    asked, conversed = harness.engine.renderings
    assert asked == RenderRequest(prompt=" a b ", adapter=None)
    assert conversed == RenderRequest(prompt=Conversation(messages=(Turn(role="user", content="a"),)), adapter=DIGEST)


def test_numbers_and_nulls_reach_the_engine_as_they_are(client: TestClient, harness: ApiHarness) -> None:
    variables = {"question": 1, "b": 1.0, "c": True, "d": None, "e": [{"f": "é\u2028"}]}
    render(client, variables=variables)
    prompt = harness.engine.renderings[0].prompt
    assert isinstance(prompt, Variables)
    assert repr(prompt.variables) == repr(variables)


@pytest.mark.parametrize(
    ("prompt", "param", "said"),
    [
        ({}, "prompt", "give a prompt, variables or messages"),
        ({"prompt": "a", "variables": {}}, "variables", "send only one of prompt, variables, messages"),
        ({"variables": {}, "messages": [{"role": "user", "content": "a"}]}, "messages", "send only one of"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'system', 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name", "not supported"),
        ({"variables": ["a"]}, "variables", "dictionary"),
        ({"variables": {}}, "variables", 'there is no column "question"'),
        ({"prompt": "a", "max_tokens": 1}, "max_tokens", "not supported"),
    ],
)
def test_what_cannot_be_rendered_is_named(client: TestClient, prompt: dict[str, Any], param: str, said: str) -> None:
    response = render(client, **prompt)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_values_that_nest_without_end_are_refused(client: TestClient) -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    response = render(client, variables={"question": deep})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "variables")


def test_a_base_model_has_no_prompt_format(client: TestClient) -> None:
    error = render(client, BASE, variables={"question": "a"}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "variables")
    assert "no prompt format" in error["message"]


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    response = render(client, "nobody", prompt="a")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineUnavailable("tiny", "down"), 503, "engine_unavailable"),
        (AdapterInvalid(DIGEST, "adapter_config.json is damaged: …"), 503, "adapter_invalid"),
        (AdapterMismatch(DIGEST, "its training prompt 1 is not rendered here as …"), 409, "adapter_mismatch"),
    ],
)
def test_an_engine_that_cannot_render_says_why(
    client: TestClient, harness: ApiHarness, error: ServiceError, status: int, code: str
) -> None:
    harness.engine.fails_before = error
    response = render(client, prompt="a")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"] == str(error)
