"""OpenAI's completions over HTTP, on a scripted engine."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import AdapterMismatch, EngineBusy, EngineUnavailable, GenerationFailed
from core.serving.generation import Constraint
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.app.generation.openai.asking import complete, events_of
from tests.harness.models.published_model import publish
from tests.harness.stub_engine import CONTEXT_TOKENS

USAGE = {
    "prompt_tokens": 2,
    "completion_tokens": 4,
    "total_tokens": 6,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def test_a_completion_has_the_protocols_shape(client: TestClient) -> None:
    completion = complete(client).json()
    assert completion == {
        "id": completion["id"],
        "object": "text_completion",
        "created": completion["created"],
        "model": BASE,
        "system_fingerprint": completion["system_fingerprint"],
        "choices": [{"index": 0, "text": " one two three", "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
    }


def test_the_protocols_defaults_reach_the_engine(client: TestClient, harness: ApiHarness) -> None:
    complete(client)
    (request,) = harness.engine.requests
    assert (request.prompt, request.adapter) == ("a b", None)
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.stop) == (16, 1.0, ())


def test_parameters_reach_the_engine(client: TestClient, harness: ApiHarness) -> None:
    complete(client, max_tokens=2, temperature=0, top_p=0.5, top_k=3, seed=4, stop="x")
    sampling = harness.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (2, 0.0, 0.5)
    assert (sampling.top_k, sampling.seed, sampling.stop) == (3, 4, ("x",))


def test_additions_and_penalties_reach_the_engine(client: TestClient, harness: ApiHarness) -> None:
    fields = {"min_p": 0.1, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -1}
    complete(client, **fields, logit_bias={"5": -100}, stop_token_ids=[7], ignore_eos=True, logprobs=3)
    sampling = harness.engine.requests[0].sampling
    assert {name: getattr(sampling, name) for name in fields} == fields
    assert (sampling.logit_bias, sampling.stop_token_ids, sampling.ignore_end) == ({5: -100.0}, (7,), True)
    assert (sampling.top_logprobs, sampling.prompt_logprobs) == (3, False)


SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            "json_schema",
            json.dumps(SCHEMA),
        ),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
        ({"response_format": {"type": "json", "value": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
        ({"regex": "one|two"}, "regex", "one|two"),
    ],
)
def test_what_the_answer_must_be_reaches_the_engine(
    client: TestClient, harness: ApiHarness, fields: dict[str, Any], kind: str, value: str
) -> None:
    assert complete(client, **fields).status_code == 200
    assert harness.engine.requests[0].sampling.constraint == Constraint(kind=kind, value=value)


def test_a_schema_that_is_too_deep_or_too_long_is_refused(client: TestClient) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    for schema in (deep, {"description": "x" * 2**17}):
        error = complete(client, response_format={"type": "json", "value": schema}).json()["error"]
        assert error["param"] == "response_format.value"


def test_callers_and_their_users_are_told_apart(client: TestClient, harness: ApiHarness) -> None:
    complete(client)
    complete(client, user="ann")
    assert [request.caller for request in harness.engine.requests] == ["anonymous", "anonymous/ann"]


@pytest.mark.parametrize("name", ["dummy", "tgi"])
def test_what_clients_call_a_server_with_one_model_is_the_base_model(client: TestClient, name: str) -> None:
    assert complete(client, model=name).json()["model"] == BASE


def test_a_model_whose_base_is_not_served_is_refused_before_an_engine_is_asked(harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x")
    harness.settings = harness.settings.model_copy(update={"base_models": ("other",)})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = complete(client, model="ft:x")
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert response.json()["error"]["code"] == "base_model_not_served"
    assert BASE in response.json()["error"]["message"]
    assert "LORAMILL_BASE_MODELS" in response.json()["error"]["message"]
    assert harness.engine.requests == []


class TestChoices:
    def test_choices_come_prompt_by_prompt(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.script = [(" a0", -1), (" a1", -1), (" b0", -1), (" b1", -1)]
        completion = complete(client, prompt=["a b", "c"], n=2).json()
        assert [(choice["index"], choice["text"]) for choice in completion["choices"]] == [
            (0, " a0"),
            (1, " a1"),
            (2, " b0"),
            (3, " b1"),
        ]
        assert completion["usage"]["prompt_tokens"] == 3  # each prompt once
        assert completion["usage"]["completion_tokens"] == 8

    def test_each_choice_has_a_seed_of_its_own(self, client: TestClient, harness: ApiHarness) -> None:
        complete(client, n=3, seed=2**63 - 2)
        complete(client, n=2)
        assert [request.sampling.seed for request in harness.engine.requests] == [2**63 - 2, 2**63 - 1, 0, None, None]

    def test_the_best_are_the_likeliest_by_token(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.script = [(" worst", -3), (" best of all", -1), (" good", -2)]
        completion = complete(client, n=2, best_of=3).json()
        assert [choice["text"] for choice in completion["choices"]] == [" best of all", " good"]
        assert completion["usage"]["completion_tokens"] == 2 + 4 + 2  # of all that were generated

    def test_the_best_cannot_be_streamed(self, client: TestClient) -> None:
        error = complete(client, n=1, best_of=2, stream=True).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", "best_of")

    def test_cached_tokens_of_a_prompt_are_told(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.cached_tokens = 1
        usage = complete(client, n=2).json()["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 1}


@pytest.mark.parametrize(
    ("fields", "text", "reason"), [({"max_tokens": 2}, " one two", "length"), ({"stop": ["two"]}, " one", "stop")]
)
def test_how_a_completion_ends_is_told(client: TestClient, fields: dict[str, Any], text: str, reason: str) -> None:
    (choice,) = complete(client, **fields).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)


def test_a_stop_token_ends_a_completion_and_an_ignored_end_does_not(client: TestClient) -> None:
    (stopped,) = complete(client, stop_token_ids=[11]).json()["choices"]
    assert (stopped["text"], stopped["finish_reason"]) == (" one", "stop")
    (endless,) = complete(client, ignore_eos=True, max_tokens=6).json()["choices"]
    assert endless["finish_reason"] == "length"


def test_a_fine_tuned_model_is_asked_for_by_its_digest(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
    assert complete(client, model="ft:x").json()["model"] == "ft:x"
    assert harness.engine.requests[0].adapter == "e" * 64


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b c"], ["a", "b c"]),
        ([5, 6], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
    ],
)
def test_the_four_shapes_of_a_prompt(client: TestClient, harness: ApiHarness, prompt: Any, prompts: list[Any]) -> None:
    completion = complete(client, prompt=prompt).json()
    assert [choice["index"] for choice in completion["choices"]] == list(range(len(prompts)))
    assert sorted(map(str, (request.prompt for request in harness.engine.requests))) == sorted(map(str, prompts))
    assert completion["usage"]["completion_tokens"] == 4 * len(prompts)


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [1.5], [True], [-1], {"a": 1}, ["x"] * 65])
def test_other_prompts_are_refused(client: TestClient, harness: ApiHarness, prompt: Any) -> None:
    response = complete(client, prompt=prompt)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert harness.engine.requests == []


@pytest.mark.parametrize("field", [{"suffix": "x"}, {"colour": 1}, {"stream_options": {"include_obfuscation": True}}])
def test_what_is_not_implemented_is_refused_by_name(client: TestClient, field: dict[str, Any]) -> None:
    error = complete(client, **field).json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"].startswith(next(iter(field)))


def test_the_protocols_neutral_values_pass(client: TestClient) -> None:
    neutral: dict[str, Any] = {
        "n": 1,
        "best_of": 1,
        "echo": False,
        "logprobs": None,
        "logit_bias": {},
        "suffix": None,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "stop": None,
        "max_tokens": None,
        "stream": False,
        "stream_options": None,
        "response_format": {"type": "text"},
        "user": None,
    }
    assert complete(client, **neutral).status_code == 200


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 3, "prompt": ["a"] * 22}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 16, "prompt": ["a"] * 5}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 2}, "min_p"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"regex": ""}, "regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.type"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(client: TestClient, field: dict[str, Any], param: str) -> None:
    response = complete(client, **field)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_400(client: TestClient, stream: bool) -> None:
    response = complete(client, prompt="a " * CONTEXT_TOKENS, stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "prompt_too_long"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineUnavailable(BASE, "no answer"), 503), (EngineBusy(9, 2), 429), (GenerationFailed("x"), 503)],
)
def test_errors_before_the_first_token_are_statuses(
    client: TestClient, harness: ApiHarness, error: Exception, status: int, stream: bool
) -> None:
    harness.engine.fails_before = error
    response = complete(client, stream=stream)
    assert response.status_code == status
    assert int(response.headers["retry-after"]) > 0


def test_a_busy_engine_says_when_there_will_be_room(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = EngineBusy(9, 7)
    headers = complete(client).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("7", "7000")


def test_an_adapter_of_another_base_model_is_a_conflict(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = AdapterMismatch("e" * 64, "it was made for another one")
    response = complete(client)
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert response.json()["error"]["code"] == "adapter_mismatch"


def test_an_unknown_model_is_404_before_an_engine_is_asked(client: TestClient, harness: ApiHarness) -> None:
    assert complete(client, model="gpt-5").status_code == 404
    assert harness.engine.requests == []


class TestStream:
    def test_chunks_share_id_and_time_and_end_with_done(self, client: TestClient) -> None:
        response = complete(client, stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        *chunks, done = events_of(response.text)
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        assert len({(chunk["id"], chunk["created"]) for chunk in parsed}) == 1
        assert "".join(chunk["choices"][0]["text"] for chunk in parsed) == " one two three"
        assert [chunk["choices"][0]["finish_reason"] for chunk in parsed] == [None, None, None, "stop"]
        assert all(chunk["usage"] is None for chunk in parsed)

    def test_usage_comes_last_without_choices(self, client: TestClient) -> None:
        *_, usage, done = events_of(complete(client, stream=True, stream_options={"include_usage": True}).text)
        assert done == "[DONE]"
        assert json.loads(usage)["choices"] == []
        assert json.loads(usage)["usage"] == USAGE

    def test_several_prompts_stream_together_by_index(self, client: TestClient) -> None:
        *chunks, _ = events_of(complete(client, prompt=["a", "b"], stream=True).text)
        texts = ["", ""]
        for chunk in chunks:
            (choice,) = json.loads(chunk)["choices"]
            texts[choice["index"]] += choice["text"]
        assert texts == [" one two three"] * 2

    def test_an_error_in_the_middle_is_an_event(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.fails_after = (2, GenerationFailed("out of memory"))
        *chunks, error = events_of(complete(client, stream=True).text)
        assert len(chunks) == 2
        assert json.loads(error)["error"]["code"] == "generation_failed"

    def test_an_unexpected_error_in_the_middle_tells_nothing(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.fails_after = (1, KeyError("secret"))
        *_, error = events_of(complete(client, stream=True).text)
        assert json.loads(error)["error"]["code"] == "internal_error"
        assert "secret" not in error

    def test_the_other_prompts_are_cancelled_when_one_fails(self, client: TestClient, harness: ApiHarness) -> None:
        harness.engine.fails_after = (1, GenerationFailed("x"))
        complete(client, prompt=["a", "b"], stream=True)
        assert len(harness.engine.cancelled) == 2
