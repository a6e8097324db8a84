"""What a request's field is read as, and what the API's description says of it, are one."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE

CHAT = {"model": BASE, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.fixture
def schemas(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["components"]["schemas"]
    return found


def field(schemas: dict[str, Any], schema: str, name: str) -> dict[str, Any]:
    return {key: value for key, value in schemas[schema]["properties"][name].items() if key != "title"}


@pytest.mark.parametrize(
    ("schema", "name", "described"),
    [
        ("ChatCreate", "tools", {"enum": [None, []]}),
        ("ChatCreate", "store", {"enum": [None, False]}),
        ("MethodCreate", "type", {"type": "string", "enum": ["supervised"]}),
    ],
)
def test_a_field_that_is_not_implemented_is_described_by_the_values_that_pass(
    schemas: dict[str, Any], schema: str, name: str, described: dict[str, Any]
) -> None:
    assert field(schemas, schema, name) == described


def test_a_zero_does_not_pass_for_false(client: TestClient) -> None:
    assert client.post("/v1/chat/completions", json=CHAT | {"store": False}).status_code == 200
    assert client.post("/v1/chat/completions", json=CHAT | {"store": 0}).status_code == 400


@pytest.mark.parametrize(
    ("schema", "name", "word"),
    [
        ("HyperparametersCreate", "n_epochs", "auto"),
        ("JobCreate", "learning_rate", "auto"),
        ("JobCreate", "load_best_model_at_end", "auto"),
        ("LoraCreate", "target_modules", "all-linear"),
    ],
)
def test_a_word_that_stands_for_a_choice_is_described(
    schemas: dict[str, Any], schema: str, name: str, word: str
) -> None:
    alternatives = field(schemas, schema, name)["anyOf"]
    assert {"const": word} in alternatives
    assert {"type": "null"} in alternatives


def test_stop_is_described_as_one_text_or_a_list_with_its_bound(schemas: dict[str, Any]) -> None:
    text = {"type": "string", "minLength": 1, "maxLength": 1024}
    for schema, most in (("ChatCreate", 4), ("Parameters", 16)):
        many = {"type": "array", "items": text, "maxItems": most}
        assert field(schemas, schema, "stop")["anyOf"] == [text, many, {"type": "null"}]


def test_a_prompt_and_a_message_are_described_in_all_their_shapes(schemas: dict[str, Any]) -> None:
    prompt = field(schemas, "CompletionCreate", "prompt")["anyOf"]
    assert [shape["type"] for shape in prompt] == ["string", "array", "array"]
    assert (prompt[1]["items"]["type"], prompt[2]["maxItems"]) == ("integer", 64)
    content = field(schemas, "ChatMessage", "content")["anyOf"]
    assert [shape["type"] for shape in content] == ["string", "array"]


def test_keys_of_a_pattern_are_described_as_the_only_ones(schemas: dict[str, Any]) -> None:
    for schema, name in (("CompletionCreate", "logit_bias"), ("JobCreate", "metadata")):
        pairs = field(schemas, schema, name)["anyOf"][0]
        assert pairs["additionalProperties"] is False
        assert len(pairs["patternProperties"]) == 1


def test_a_text_that_may_have_no_nul_is_described_so(schemas: dict[str, Any]) -> None:
    assert field(schemas, "JobCreate", "training_file")["pattern"] == r"^[^\u0000]*$"


def test_bounds_of_whole_numbers_are_described_exactly(schemas: dict[str, Any]) -> None:
    bound = field(schemas, "ChatCreate", "seed")["anyOf"][0]["exclusiveMaximum"]
    assert (type(bound), bound) == (int, 2**63)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": "2"},
        {"max_tokens": True},
        {"max_tokens": 2.5},
        {"temperature": "1"},
        {"temperature": True},
        {"logprobs": 1},
        {"logprobs": "true"},
        {"stop_token_ids": ["1"]},
        {"stream_options": {"include_usage": "yes"}},
    ],
)
def test_a_value_of_another_type_is_refused_rather_than_read_as_one(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(next(iter(wrong)))


def test_types_inside_of_a_job_are_taken_at_their_word_too(client: TestClient, file_id: str) -> None:
    for wrong in ({"lora": {"rank": "8"}}, {"hyperparameters": {"n_epochs": "3"}}, {"seed": "1"}):
        answer = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id, **wrong})
        assert answer.status_code == 400, wrong


def test_a_whole_number_may_be_written_with_a_point(client: TestClient) -> None:
    whole = CHAT | {"max_tokens": 2.0, "temperature": 1, "stop_token_ids": [5.0]}
    assert client.post("/v1/chat/completions", json=whole).status_code == 200
    body = {"model": BASE, "prompt": [1.0, 2], "max_tokens": 1}
    assert client.post("/v1/completions", json=body).status_code == 200
    assert client.post("/v1/completions", json=body | {"prompt": [1.5]}).status_code == 400


def test_a_number_too_large_for_any_use_is_described_as_too_large(schemas: dict[str, Any]) -> None:
    for schema, name in (("Parameters", "truncate"), ("PreviewCreate", "after_line"), ("JobCreate", "max_length")):
        assert "exclusiveMaximum" in str(field(schemas, schema, name)), name
