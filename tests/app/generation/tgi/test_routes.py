"""The wire of text-generation-inference and LoRAX, on a scripted engine."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import EngineBusy, GenerationFailed, InvalidParameter
from core.serving.generation import Constraint, Conversation, RenderRequest, Turn, Variables
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.harness.models.published_model import publish
from tests.harness.stub_engine import CONTEXT_TOKENS

# What lorax-client sends on each call, defaults included.
LORAX: dict[str, Any] = {
    "adapter_id": None,
    "adapter_source": None,
    "merged_adapters": None,
    "api_token": None,
    "do_sample": False,
    "max_new_tokens": None,
    "ignore_eos_token": False,
    "repetition_penalty": None,
    "return_full_text": False,
    "stop": [],
    "seed": None,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "truncate": None,
    "typical_p": None,
    "best_of": None,
    "watermark": False,
    "details": True,
    "decoder_input_details": False,
    "return_k_alternatives": None,
    "response_format": None,
}


def generate(client: TestClient, path: str = "/generate", *, stream: bool | None = None, **parameters: Any) -> Any:
    body: dict[str, Any] = {"inputs": "a b", "parameters": parameters}
    return client.post(path, json=body if stream is None else body | {"stream": stream})


def events_of(text: str) -> list[Any]:
    assert "[DONE]" not in text
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data:{") for event in events)
    return [json.loads(event.removeprefix("data:")) for event in events]


TOKENS = [
    {"id": 10, "text": " one", "logprob": -0.5, "special": False, "skipped": False, "alternative_tokens": None},
    {"id": 11, "text": " two", "logprob": -0.5, "special": False, "skipped": False, "alternative_tokens": None},
    {"id": 12, "text": " three", "logprob": -0.5, "special": False, "skipped": False, "alternative_tokens": None},
    {"id": 13, "text": "<|end|>", "logprob": -0.5, "special": True, "skipped": False, "alternative_tokens": None},
]


def test_generate_answers_an_object(client: TestClient) -> None:
    assert generate(client).json() == {"generated_text": " one two three", "details": None}


def test_details_have_the_keys_of_every_client(client: TestClient) -> None:
    details = generate(client, details=True).json()["details"]
    assert details == {
        "finish_reason": "eos_token",
        "generated_tokens": 4,
        "seed": None,
        "prefill": [],
        "tokens": TOKENS,
        "top_tokens": None,
        "best_of_sequences": None,
        "prompt_tokens": 2,
        "skipped_tokens": 0,
    }


def test_the_root_answers_an_array_of_one(client: TestClient) -> None:
    (answer,) = generate(client, "/", stream=False, **LORAX).json()
    assert answer["generated_text"] == " one two three"
    assert answer["details"]["tokens"] == TOKENS


def test_a_client_whose_base_is_generate_gets_what_it_reads(client: TestClient) -> None:
    assert isinstance(generate(client, "/generate", stream=False).json(), list)
    assert len(events_of(generate(client, "/generate", stream=True).text)) == 4


@pytest.mark.parametrize(("path", "stream"), [("/generate_stream", None), ("/", True)])
def test_a_stream_has_one_event_a_token_and_no_done(client: TestClient, path: str, stream: bool | None) -> None:
    events = events_of(generate(client, path, stream=stream, details=True).text)
    assert [event["token"] for event in events] == TOKENS
    assert [event["index"] for event in events] == [1, 2, 3, 4]
    assert [event["generated_text"] for event in events] == [None, None, None, " one two three"]
    assert [event["details"] for event in events[:-1]] == [None, None, None]
    assert events[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 4,
        "seed": None,
        "prompt_tokens": 2,
        "input_length": 2,
        "skipped_tokens": 0,
    }


@pytest.mark.parametrize(
    ("parameters", "reason"), [({"max_new_tokens": 1}, "length"), ({"stop": ["two"]}, "stop_sequence")]
)
def test_how_it_ended_is_told(client: TestClient, parameters: dict[str, Any], reason: str) -> None:
    assert generate(client, details=True, **parameters).json()["details"]["finish_reason"] == reason


def test_the_full_text_begins_with_the_input(client: TestClient) -> None:
    assert generate(client, return_full_text=True).json()["generated_text"] == "a b one two three"


def test_an_adapter_is_named_by_its_model_name(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
    generate(client, adapter_id="ft:x")
    assert harness.engine.requests[0].adapter == "e" * 64


class TestVariables:
    @pytest.fixture(autouse=True)
    def _adapter(self, harness: ApiHarness) -> None:
        with harness.database.write() as session:
            publish(session, "ft:x", digest="e" * 64)

    def ask(self, client: TestClient, path: str = "/generate", **body: Any) -> Any:
        parameters = {"adapter_id": "ft:x", **body.pop("parameters", {})}
        return client.post(path, json={"variables": {"question": "why not"}, "parameters": parameters, **body})

    def test_the_engine_fills_in_the_prompt_format(self, client: TestClient, harness: ApiHarness) -> None:
        answer = self.ask(client, parameters={"details": True}).json()
        assert answer["generated_text"] == " one two three"
        assert answer["details"]["prompt_tokens"] == 4
        assert harness.engine.requests[0].prompt == Variables(variables={"question": "why not"})
        assert harness.engine.renderings == []

    @pytest.mark.parametrize(("path", "stream"), [("/generate_stream", None), ("/", True), ("/", False)])
    def test_every_path_takes_them(self, client: TestClient, path: str, stream: bool | None) -> None:
        response = self.ask(client, path, stream=stream)
        answer = response.json()[0] if stream is False else events_of(response.text)[-1]
        assert answer["generated_text"] == " one two three"

    @pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
    def test_the_full_text_begins_with_the_rendered_prompt(
        self, client: TestClient, harness: ApiHarness, path: str
    ) -> None:
        response = self.ask(client, path, parameters={"return_full_text": True})
        answer = response.json() if path == "/generate" else events_of(response.text)[-1]
        assert answer["generated_text"] == "Q why not A one two three"
        asked = Variables(variables={"question": "why not"})
        assert harness.engine.renderings == [RenderRequest(prompt=asked, adapter="e" * 64)]

    @pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"variables": None}, "inputs: give a prompt, or variables"),
            ({"inputs": "a"}, "variables: there is a prompt in inputs already"),
            ({"variables": {"q": 1}}, 'variables: there is no column "question"'),
            ({"parameters": {"adapter_id": BASE}}, "variables: this model has no prompt format"),
            ({"variables": "why"}, "variables: "),
        ],
    )
    def test_what_cannot_be_rendered_is_named(
        self, client: TestClient, path: str, body: dict[str, Any], said: str
    ) -> None:
        response = self.ask(client, path, **body)
        assert (response.status_code, response.json()["error_type"]) == (400, "validation")
        assert response.json()["error"].startswith(said)


def test_several_base_models_need_a_name(harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "other")})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = generate(client)
        assert (response.status_code, response.json()["error_type"]) == (400, "validation")
        assert generate(client, adapter_id=BASE).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"temperature": 1.0}, 0.0),
    ],
)
def test_when_it_samples(
    client: TestClient, harness: ApiHarness, parameters: dict[str, Any], temperature: float
) -> None:
    details = generate(client, details=True, **parameters).json()["details"]
    sampling = harness.engine.requests[0].sampling
    assert sampling.temperature == temperature
    assert (details["seed"] is not None) == (temperature > 0)
    assert sampling.seed == details["seed"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"typical_p": 0.5},
        {"watermark": True},
        {"adapter_source": "hub"},
        {"api_token": "secret"},
        {"merged_adapters": {"ids": ["a"], "weights": [1]}},
        {"colour": 1},
    ],
)
def test_what_is_not_implemented_is_refused_by_name(client: TestClient, parameters: dict[str, Any]) -> None:
    response = generate(client, **parameters)
    assert response.status_code == 400
    assert response.json()["error_type"] == "validation"
    assert f"parameters.{next(iter(parameters))}" in response.json()["error"]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "best_of"),
        ({"best_of": 17, "do_sample": True}, "best_of"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"truncate": 0}, "truncate"),
        ({"top_n_tokens": 21}, "top_n_tokens"),
        ({"grammar": {"type": "regex", "value": 5}}, "grammar.value"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar.value"),
        ({"grammar": {"type": "json", "value": []}}, "grammar.value"),
        ({"grammar": {"type": "json_schema", "value": {}}}, "grammar.value.schema"),
        ({"grammar": {"type": "yaml", "value": ""}}, "grammar.type"),
        ({"grammar": {"type": "regex", "value": "a"}, "response_format": {"type": "json_object"}}, "grammar"),
    ],
)
def test_what_has_no_sense_is_refused_by_name(
    client: TestClient, harness: ApiHarness, parameters: dict[str, Any], param: str
) -> None:
    response = generate(client, **parameters)
    assert (response.status_code, response.json()["error_type"]) == (400, "validation")
    assert response.json()["error"].startswith(f"parameters.{param}: ")
    assert harness.engine.requests == []


@pytest.mark.parametrize("parameters", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
def test_what_only_a_whole_answer_tells_is_refused_in_a_stream(client: TestClient, parameters: dict[str, Any]) -> None:
    response = generate(client, "/generate_stream", **parameters)
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"parameters.{next(iter(parameters))}: ")


def test_parameters_reach_the_engine(client: TestClient, harness: ApiHarness) -> None:
    penalties: dict[str, Any] = {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    generate(client, **penalties, ignore_eos_token=True, max_new_tokens=5, adapter_source="local")
    (request,) = harness.engine.requests
    assert {name: getattr(request.sampling, name) for name in penalties} == penalties
    assert (request.sampling.ignore_end, request.sampling.max_tokens, request.caller) == (True, 5, "anonymous")


SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


@pytest.mark.parametrize(
    ("parameters", "constraint"),
    [
        ({"grammar": {"type": "regex", "value": "a+"}}, Constraint(kind="regex", value="a+")),
        ({"grammar": {"type": "json", "value": SCHEMA}}, Constraint(kind="json_schema", value=json.dumps(SCHEMA))),
        (
            {"grammar": {"type": "json", "value": json.dumps(SCHEMA)}},
            Constraint(kind="json_schema", value=json.dumps(SCHEMA)),
        ),
        (
            {"grammar": {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}}},
            Constraint(kind="json_schema", value=json.dumps(SCHEMA)),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            Constraint(kind="json_schema", value=json.dumps(SCHEMA)),
        ),
    ],
)
def test_what_the_answer_must_be_reaches_the_engine(
    client: TestClient, harness: ApiHarness, parameters: dict[str, Any], constraint: Constraint
) -> None:
    assert generate(client, **parameters).status_code == 200
    assert harness.engine.requests[0].sampling.constraint == constraint


def test_what_an_engine_refuses_is_named_as_this_wire_names_it(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = InvalidParameter("max_tokens", "is more than there is memory for")
    for path in ("/generate", "/generate_stream"):
        assert generate(client, path).json()["error"].startswith("parameters.max_new_tokens: is more")


def test_what_an_engine_refuses_in_the_middle_is_named_as_this_wire_names_it(
    client: TestClient, harness: ApiHarness
) -> None:
    harness.engine.fails_after = (1, InvalidParameter("regex", "leads nowhere"))
    *_, last = events_of(generate(client, "/generate_stream").text)
    assert last["error"] == "parameters.grammar: leads nowhere"


def test_a_field_that_this_wire_does_not_have_is_named_as_it_was_sent(client: TestClient) -> None:
    error = client.post("/generate", json={"inputs": "a", "prompt": "b"}).json()["error"]
    assert error.startswith("prompt: ")


def test_the_likeliest_tokens_are_told_under_both_protocols_names(client: TestClient) -> None:
    details = generate(client, details=True, top_n_tokens=2, return_k_alternatives=1, max_new_tokens=1).json()[
        "details"
    ]
    assert details["top_tokens"] == [
        [
            {"id": 100, "text": " best", "logprob": -0.25, "special": False},
            {"id": 101, "text": " one", "logprob": -0.5, "special": False},
        ]
    ]
    assert details["tokens"][0]["alternative_tokens"] == [{"id": 100, "text": " best", "logprob": -0.25}]
    (event,) = events_of(generate(client, "/generate_stream", top_n_tokens=1, max_new_tokens=1).text)
    assert [token["text"] for token in event["top_tokens"]] == [" best"]


def test_the_prompts_tokens_are_told(client: TestClient) -> None:
    details = generate(client, details=True, decoder_input_details=True).json()["details"]
    assert details["prefill"] == [{"id": 0, "text": "a", "logprob": None}, {"id": 1, "text": " b", "logprob": -0.5}]


def test_the_best_of_several_is_told_and_then_the_others(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.script = [(" bad", -2), (" best", -0.1), (" good", -1)]
    answer = generate(client, details=True, best_of=3, do_sample=True).json()
    assert answer["generated_text"] == " best"
    others = answer["details"]["best_of_sequences"]
    assert [other["generated_text"] for other in others] == [" good", " bad"]
    seeds = {request.sampling.seed for request in harness.engine.requests}
    assert {answer["details"]["seed"], *(other["seed"] for other in others)} == seeds
    assert len(seeds) == 3


def test_a_prompt_is_cut_to_its_last_tokens(client: TestClient, harness: ApiHarness) -> None:
    client.post("/generate", json={"inputs": "a b c", "parameters": {"truncate": 2}})
    client.post("/generate", json={"inputs": "a b c", "parameters": {"truncate": 3}})
    assert [request.prompt for request in harness.engine.requests] == [(1, 2), "a b c"]


def test_a_chat_template_makes_the_input_the_users_message(client: TestClient, harness: ApiHarness) -> None:
    generate(client, apply_chat_template=True)
    assert harness.engine.requests[0].prompt == Conversation(messages=(Turn(role="user", content="a b"),))


@pytest.mark.parametrize("path", ["/", "/generate"])
def test_headers_tell_what_answered_and_how_much(client: TestClient, harness: ApiHarness, path: str) -> None:
    with harness.database.write() as session:
        publish(session, "ft:ü")
    headers = generate(client, path, adapter_id="ft:ü").headers
    told = ("x-model-id", "x-adapter-id", "x-prompt-tokens", "x-generated-tokens", "x-total-tokens")
    assert [headers[name] for name in told] == [BASE, "ft:%C3%BC", "2", "4", "6"]
    assert int(headers["x-total-time"]) >= 0


def test_a_streams_headers_tell_what_answers(client: TestClient) -> None:
    headers = generate(client, "/generate_stream").headers
    assert headers["x-model-id"] == BASE
    assert "x-adapter-id" not in headers
    assert "x-generated-tokens" not in headers


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
def test_errors_have_the_envelope_of_this_wire(client: TestClient, path: str) -> None:
    for body, status, kind in (
        ({"inputs": ""}, 400, "validation"),
        ({"inputs": "a " * CONTEXT_TOKENS}, 400, "validation"),
        ({"inputs": "a", "parameters": {"adapter_id": "nobody"}}, 404, "not_found"),
    ):
        response = client.post(path, json=body)
        assert response.status_code == status
        assert set(response.json()) == {"error", "error_type"}
        assert response.json()["error_type"] == kind
        assert isinstance(response.json()["error"], str)


def test_a_full_engine_is_overloaded(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_before = EngineBusy(9, 2)
    response = generate(client)
    assert (response.status_code, response.json()["error_type"]) == (429, "overloaded")


def test_an_error_in_the_middle_of_a_stream_is_an_event(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.fails_after = (1, GenerationFailed("x"))
    *_, error = events_of(generate(client, "/generate_stream").text)
    assert error == {"error": "generation failed: x", "error_type": "generation"}
