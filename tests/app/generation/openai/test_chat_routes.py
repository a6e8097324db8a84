"""OpenAI's chat completions over HTTP, on a scripted engine."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import GenerationFailed, InvalidParameter
from core.serving.generation import Constraint, Conversation, Turn
from tests.app.conftest import BASE, ApiHarness
from tests.app.generation.openai.asking import events_of
from tests.harness.models.published_model import publish
from tests.harness.stub_engine import CONTEXT_TOKENS

USAGE = {
    "prompt_tokens": 2,
    "completion_tokens": 4,
    "total_tokens": 6,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def chat(client: TestClient, **fields: Any) -> Any:
    return client.post(
        "/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "a b"}]} | fields
    )


def chunks_of(response: Any) -> list[Any]:
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def test_a_chat_completion_has_the_protocols_shape(client: TestClient) -> None:
    completion = chat(client).json()
    assert completion == {
        "id": completion["id"],
        "object": "chat.completion",
        "created": completion["created"],
        "model": BASE,
        "system_fingerprint": completion["system_fingerprint"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " one two three", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": USAGE,
    }


def test_messages_reach_the_engine_as_a_conversation(client: TestClient, harness: ApiHarness) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "why"}, {"type": "text", "text": " not?"}]},
        {"role": "assistant", "content": "so", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "system", "content": "now rhyme"},
        {"role": "user", "content": "go on"},
    ]
    assert chat(client, messages=messages).status_code == 200
    assert harness.engine.requests[0].prompt == Conversation(
        messages=(
            Turn(role="system", content="be brief"),
            Turn(role="user", content="why not?"),
            Turn(role="assistant", content="so"),
            Turn(role="system", content="now rhyme"),
            Turn(role="user", content="go on"),
        )
    )


def test_parameters_reach_the_engine(client: TestClient, harness: ApiHarness) -> None:
    chat(client, max_completion_tokens=7, temperature=0.5, top_p=0.9, min_p=0.1, seed=3, stop="x", user="ann")
    (request,) = harness.engine.requests
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.9)
    assert (sampling.min_p, sampling.seed, sampling.stop, request.caller) == (0.1, 3, ("x",), "anonymous/ann")


def test_a_fine_tuned_model_is_asked_for_by_its_digest(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
    assert chat(client, model="ft:x").json()["model"] == "ft:x"
    assert harness.engine.requests[0].adapter == "e" * 64


class TestMaxTokens:
    def test_both_names_mean_the_same(self, client: TestClient, harness: ApiHarness) -> None:
        for fields in ({"max_tokens": 2}, {"max_completion_tokens": 2}, {"max_tokens": 2, "max_completion_tokens": 2}):
            assert chat(client, **fields).json()["choices"][0]["finish_reason"] == "length"
        assert {request.sampling.max_tokens for request in harness.engine.requests} == {2}

    def test_two_limits_are_refused(self, client: TestClient) -> None:
        error = chat(client, max_tokens=2, max_completion_tokens=3).json()["error"]
        assert error["param"] == "max_tokens"

    @pytest.mark.parametrize("stream", [False, True])
    def test_without_a_limit_the_context_is_one(self, client: TestClient, harness: ApiHarness, stream: bool) -> None:
        assert chat(client, ignore_eos=True, stream=stream).status_code == 200
        assert harness.engine.requests[-1].sampling.max_tokens == CONTEXT_TOKENS - 2

    def test_a_prompt_that_fills_the_context_is_refused(self, client: TestClient) -> None:
        response = chat(client, messages=[{"role": "user", "content": "a " * CONTEXT_TOKENS}])
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("prompt_too_long", "messages")

    def test_a_limit_beyond_the_context_is_refused(self, client: TestClient) -> None:
        assert chat(client, max_tokens=CONTEXT_TOKENS).json()["error"]["code"] == "prompt_too_long"


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [TOOL]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"reasoning_effort": "high"},
        {"web_search_options": {}},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"service_tier": "flex"},
        {"best_of": 2},
        {"echo": True},
        {"colour": 1},
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    client: TestClient, harness: ApiHarness, field: dict[str, Any]
) -> None:
    response = chat(client, **field)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", next(iter(field)))
    assert harness.engine.requests == []


def test_values_that_ask_for_nothing_pass(client: TestClient) -> None:
    neutral: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "functions": None,
        "modalities": ["text"],
        "store": False,
        "metadata": {},
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "stream": None,
        "stop": None,
    }
    assert chat(client, **neutral).status_code == 200


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.0.content"),
        ({"role": "user", "content": "x", "name": "ann"}, "messages.0.name"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls"),
    ],
)
def test_messages_that_cannot_be_fed_are_refused_by_place(
    client: TestClient, message: dict[str, Any], param: str
) -> None:
    response = chat(client, messages=[message])
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_model_without_a_chat_template_says_so(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = InvalidParameter("messages", "the base model has no chat template")
    response = chat(client)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")


def test_what_an_engine_refuses_is_named_as_this_wire_names_it(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = InvalidParameter("prompt", "it has no tokens")
    error = chat(client).json()["error"]
    assert (error["param"], error["message"]) == ("messages", "messages: it has no tokens")


def test_a_field_that_this_wire_does_not_have_is_named_as_it_was_sent(client: TestClient) -> None:
    assert chat(client, prompt="a").json()["error"]["param"] == "prompt"


def test_the_answer_follows_a_schema(client: TestClient, harness: ApiHarness) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    content = chat(client, response_format=wanted).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"answer": "one"}
    constraint = harness.engine.requests[0].sampling.constraint
    assert constraint == Constraint(kind="json_schema", value=json.dumps(schema))


def test_several_choices_share_a_prompt(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.script = [(" a", -1), (" b", -1)]
    completion = chat(client, n=2).json()
    assert [choice["message"]["content"] for choice in completion["choices"]] == [" a", " b"]
    assert (completion["usage"]["prompt_tokens"], completion["usage"]["completion_tokens"]) == (2, 4)


def test_logprobs_are_of_the_messages_own_tokens(client: TestClient) -> None:
    logprobs = chat(client, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]
    assert [token["token"] for token in logprobs["content"]] == [" one", " two", " three"]
    assert logprobs["refusal"] is None
    assert logprobs["content"][0] == {
        "token": " one",
        "bytes": list(b" one"),
        "logprob": -0.5,
        "top_logprobs": [
            {"token": " best", "bytes": list(b" best"), "logprob": -0.25},
            {"token": " one", "bytes": list(b" one"), "logprob": -0.5},
        ],
    }


def test_top_logprobs_need_logprobs(client: TestClient) -> None:
    assert chat(client, top_logprobs=2).json()["error"]["param"] == "top_logprobs"


class TestStream:
    def test_the_role_comes_first_and_the_reason_last(self, client: TestClient) -> None:
        chunks = chunks_of(chat(client, stream=True))
        assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [choice["delta"] for choice in choices] == [
            {"role": "assistant", "content": ""},
            {"content": " one"},
            {"content": " two"},
            {"content": " three"},
            {},
        ]
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, None, "stop"]
        assert all(chunk["usage"] is None for chunk in chunks)

    def test_usage_comes_last_without_choices(self, client: TestClient) -> None:
        *_, last = chunks_of(chat(client, stream=True, stream_options={"include_usage": True}))
        assert (last["choices"], last["usage"]) == ([], USAGE)

    def test_the_last_token_at_the_limit_is_not_lost(self, client: TestClient) -> None:
        chunks = chunks_of(chat(client, stream=True, max_tokens=1))
        assert [chunk["choices"][0]["delta"] for chunk in chunks[1:]] == [{"content": " one"}, {}]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"

    def test_logprobs_come_with_their_text(self, client: TestClient) -> None:
        whole = chat(client, logprobs=True).json()["choices"][0]["logprobs"]["content"]
        chunks = chunks_of(chat(client, logprobs=True, stream=True))
        told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [token for logprobs in told if logprobs for token in logprobs["content"]] == whole

    def test_each_choice_begins_with_its_role(self, client: TestClient) -> None:
        chunks = chunks_of(chat(client, stream=True, n=2))
        for index in (0, 1):
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"][0]["index"] == index]
            assert deltas[0]["role"] == "assistant"
            assert "".join(delta.get("content", "") for delta in deltas) == " one two three"

    def test_an_error_in_the_middle_is_an_event(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.fails_after = (1, GenerationFailed("x"))
        *_, error = events_of(chat(client, stream=True).text)
        assert json.loads(error)["error"]["code"] == "generation_failed"
