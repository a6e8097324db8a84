"""OpenAI's completions over HTTP, on a scripted engine."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import EngineBusy, EngineUnavailable, GenerationFailed
from tests.app.conftest import BASE, House
from tests.app.routes.test_models import publish


def complete(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/completions", json={"model": BASE, "prompt": "a b"} | fields)


def events_of(text: str) -> list[str]:
    assert text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]


def test_a_completion_has_the_protocols_shape(client: TestClient) -> None:
    completion = complete(client).json()
    assert completion == {
        "id": completion["id"],
        "object": "text_completion",
        "created": completion["created"],
        "model": BASE,
        "choices": [{"index": 0, "text": " one two three", "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    }


def test_the_protocols_defaults_reach_the_engine(client: TestClient, house: House) -> None:
    complete(client)
    (request,) = house.engine.requests
    assert (request.prompt, request.adapter) == ("a b", None)
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.stop) == (16, 1.0, ())


def test_parameters_reach_the_engine(client: TestClient, house: House) -> None:
    complete(client, max_tokens=2, temperature=0, top_p=0.5, top_k=3, seed=4, stop="x")
    sampling = house.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (2, 0.0, 0.5)
    assert (sampling.top_k, sampling.seed, sampling.stop) == (3, 4, ("x",))


@pytest.mark.parametrize(
    ("fields", "text", "reason"), [({"max_tokens": 2}, " one two", "length"), ({"stop": ["two"]}, " one", "stop")]
)
def test_how_a_completion_ends_is_told(client: TestClient, fields: dict[str, Any], text: str, reason: str) -> None:
    (choice,) = complete(client, **fields).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)


def test_a_fine_tuned_model_is_asked_for_by_its_digest(client: TestClient, house: House) -> None:
    with house.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
    assert complete(client, model="ft:x").json()["model"] == "ft:x"
    assert house.engine.requests[0].adapter == "e" * 64


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b c"], ["a", "b c"]),
        ([5, 6], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
    ],
)
def test_the_four_shapes_of_a_prompt(client: TestClient, house: House, prompt: Any, prompts: list[Any]) -> None:
    completion = complete(client, prompt=prompt).json()
    assert [choice["index"] for choice in completion["choices"]] == list(range(len(prompts)))
    assert sorted(map(str, (request.prompt for request in house.engine.requests))) == sorted(map(str, prompts))
    assert completion["usage"]["completion_tokens"] == 4 * len(prompts)


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [1.5], [True], [-1], {"a": 1}, ["x"] * 65])
def test_other_prompts_are_refused(client: TestClient, house: House, prompt: Any) -> None:
    response = complete(client, prompt=prompt)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert house.engine.requests == []


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"best_of": 2},
        {"echo": True},
        {"logprobs": 0},
        {"logit_bias": {"5": 1}},
        {"suffix": "x"},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"user": "me"},
    ],
)
def test_what_is_not_implemented_is_refused_by_name(client: TestClient, field: dict[str, Any]) -> None:
    error = complete(client, **field).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", next(iter(field)))


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
    }
    assert complete(client, **neutral).status_code == 200


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop.0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(client: TestClient, field: dict[str, Any], param: str) -> None:
    response = complete(client, **field)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_400(client: TestClient, stream: bool) -> None:
    response = complete(client, prompt="a " * 120, stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "prompt_too_long"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineUnavailable(BASE, "no answer"), 503), (EngineBusy(9, 2), 429), (GenerationFailed("x"), 503)],
)
def test_errors_before_the_first_token_are_statuses(
    client: TestClient, house: House, error: Exception, status: int, stream: bool
) -> None:
    house.engine.fails_before = error
    response = complete(client, stream=stream)
    assert response.status_code == status
    assert int(response.headers["retry-after"]) > 0


def test_an_unknown_model_is_404_before_an_engine_is_asked(client: TestClient, house: House) -> None:
    assert complete(client, model="gpt-5").status_code == 404
    assert house.engine.requests == []


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
        assert json.loads(usage)["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}

    def test_several_prompts_stream_together_by_index(self, client: TestClient) -> None:
        *chunks, _ = events_of(complete(client, prompt=["a", "b"], stream=True).text)
        texts = ["", ""]
        for chunk in chunks:
            (choice,) = json.loads(chunk)["choices"]
            texts[choice["index"]] += choice["text"]
        assert texts == [" one two three"] * 2

    def test_an_error_in_the_middle_is_an_event(self, client: TestClient, house: House) -> None:
        house.engine.fails_after = (2, GenerationFailed("out of memory"))
        *chunks, error = events_of(complete(client, stream=True).text)
        assert len(chunks) == 2
        assert json.loads(error)["error"]["code"] == "generation_failed"

    def test_an_unexpected_error_in_the_middle_tells_nothing(self, client: TestClient, house: House) -> None:
        house.engine.fails_after = (1, KeyError("secret"))
        *_, error = events_of(complete(client, stream=True).text)
        assert json.loads(error)["error"]["code"] == "internal_error"
        assert "secret" not in error

    def test_the_other_prompts_are_cancelled_when_one_fails(self, client: TestClient, house: House) -> None:
        house.engine.fails_after = (1, GenerationFailed("x"))
        complete(client, prompt=["a", "b"], stream=True)
        assert len(house.engine.cancelled) == 2
