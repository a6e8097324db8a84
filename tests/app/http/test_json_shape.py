import orjson
import pytest
from starlette.testclient import TestClient

from app.http.json_shape import (
    FREE_BYTES,
    MAX_CONTAINERS,
    MAX_KEYS,
    MAX_TEXTS,
    MAX_VALUES,
    find_excess,
    find_excess_unread,
)

MANY_LISTS: list[object] = [[]] * MAX_CONTAINERS  # and the one around them
MANY_OBJECTS: list[object] = [{}] * MAX_CONTAINERS
MANY_TEXTS = [""] * (MAX_TEXTS + 1)


@pytest.mark.parametrize(
    ("body", "excess"),
    [
        (MANY_LISTS, "32,768 lists and objects"),
        (MANY_OBJECTS, "32,768 lists and objects"),
        ({"a": {"b": MANY_LISTS}}, "32,768 lists and objects"),
        (MANY_TEXTS, "262,144 texts"),
        ({str(key): 1 for key in range(MAX_TEXTS + 1)}, "262,144 texts"),
    ],
)
def test_what_makes_parsing_slow_is_found_before(body: object, excess: str) -> None:
    assert find_excess_unread(orjson.dumps(body)) == f"more than {excess}"


@pytest.mark.parametrize(
    "body", [MANY_LISTS[1:], MANY_TEXTS[1:], "[" * 2**17, '\\"[{,' * 2**16, {'"[\\': "[\\\\"}, [1] * 2**16]
)
def test_what_stands_in_texts_is_not_counted(body: object) -> None:
    assert find_excess_unread(orjson.dumps(body)) is None


def test_a_text_without_an_end_is_left_to_the_parser() -> None:
    assert find_excess_unread(b'{"a": "' + b"x" * FREE_BYTES) is None


def test_no_short_body_has_more_than_any_bound() -> None:
    assert min(MAX_CONTAINERS, MAX_TEXTS, MAX_KEYS) >= FREE_BYTES


@pytest.mark.parametrize(
    ("body", "excess"),
    [
        ([1] * (MAX_VALUES + 1), "1,048,576 values"),
        ({"prompt": [[1] * (MAX_VALUES // 2), [1] * (MAX_VALUES // 2)]}, "1,048,576 values"),
        ({str(key): 1 for key in range(MAX_KEYS + 1)}, "32,768 keys"),
        ([{str(key): 1 for key in range(MAX_KEYS)}, {"one": 1}], "32,768 keys"),
    ],
)
def test_values_and_keys_are_counted_at_every_depth(body: object, excess: str) -> None:
    assert find_excess(body) == f"more than {excess}"


@pytest.mark.parametrize("body", [[1] * MAX_VALUES, {str(key): [1] for key in range(MAX_KEYS)}, "text", None])
def test_as_many_as_are_allowed_pass(body: object) -> None:
    assert find_excess(body) is None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/generate", "/tokenize", "/v1/render"])
def test_a_body_of_too_many_parts_is_refused_by_every_route(client: TestClient, path: str) -> None:
    response = client.post(path, json={"prompt": MANY_LISTS})
    assert response.status_code == 413
    assert "the body has more than 32,768 lists and objects; send less in one request" in response.text


@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
def test_many_unknown_fields_are_one_complaint(client: TestClient, path: str) -> None:
    response = client.post(path, json={str(number): 1 for number in range(300)})
    assert response.status_code == 400
    assert "300 fields" in response.text
