"""An alias that stands for two models: who is answered by which, and what is counted of each."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.errors import GenerationFailed
from tests.app.aliases.moving import DIGESTS, FIRST, NAME, PATH, SECOND, publish_two, put
from tests.app.conftest import ApiHarness

USERS = [f"user-{number}" for number in range(40)]


@pytest.fixture(autouse=True)
def split(harness: ApiHarness, client: TestClient) -> None:
    publish_two(harness)
    put(client, FIRST, canary={"model": SECOND, "percent": 50})


def complete(client: TestClient, user: str | None = None, **fields: Any) -> Any:
    named = {} if user is None else {"user": user}
    return client.post("/v1/completions", json={"model": NAME, "prompt": "a", **named, **fields})


def counted(client: TestClient) -> dict[str, Any]:
    return {side["model"]: side for side in client.get(f"{PATH}/{NAME}").json()["answers"]}


def test_each_user_is_always_answered_by_the_same_model_on_either_route(client: TestClient) -> None:
    first = {user: complete(client, user).json()["model"] for user in USERS}
    assert set(first.values()) == {FIRST, SECOND}
    for user in USERS:
        body = {"model": NAME, "messages": [{"role": "user", "content": "b"}], "user": user}
        assert client.post("/v1/chat/completions", json=body).json()["model"] == first[user]


def test_without_a_user_the_caller_is_always_answered_by_the_same_model(client: TestClient) -> None:
    names = {complete(client).json()["model"] for _ in range(8)}
    body = {"inputs": "a", "parameters": {"adapter_id": NAME}}
    names |= {client.post("/generate", json=body).headers["x-adapter-id"] for _ in range(8)}
    assert len(names) == 1


def test_both_adapters_are_loaded_before_the_alias_splits(harness: ApiHarness) -> None:
    assert harness.engine.warmed == [DIGESTS[FIRST], DIGESTS[SECOND]]


def test_what_each_side_answered_is_kept_apart(client: TestClient, harness: ApiHarness) -> None:
    sides = {user: complete(client, user, max_tokens=2).json()["model"] for user in USERS}
    new = next(user for user in USERS if sides[user] == SECOND)
    complete(client, new, max_tokens=9)
    harness.engine.fails_before = GenerationFailed("broken")
    complete(client, new)
    harness.engine.fails_before = None
    complete(client, new, max_tokens=500)  # more than the context: refused, and no fault of the model's
    complete(client, new, n=2, max_tokens=2)
    old, canary = counted(client)[FIRST], counted(client)[SECOND]
    of_new = list(sides.values()).count(SECOND)
    assert (old["answers"], old["failed"], old["stop_rate"]) == (len(USERS) - of_new, 0, 0.0)
    assert old["mean_tokens"] == 2.0
    assert (canary["answers"], canary["failed"]) == (of_new + 3, 1)
    assert canary["stop_rate"] == pytest.approx(1 / (of_new + 3))
    assert canary["mean_tokens"] == pytest.approx((2 * (of_new + 2) + 4) / (of_new + 3))
    assert canary["mean_seconds"] > 0
    assert (old["version"], canary["version"], canary["suffix"]) == (1, 2, "bot")


def test_where_nothing_was_answered_rates_are_null(client: TestClient) -> None:
    for side in counted(client).values():
        assert (side["answers"], side["failed"]) == (0, 0)
        assert {side[name] for name in ("stop_rate", "mean_tokens", "mean_seconds")} == {None}


def test_a_move_begins_to_count_anew_and_the_history_keeps_what_was(client: TestClient) -> None:
    complete(client, "someone")
    put(client, SECOND)
    complete(client, "someone"), complete(client, "other")
    told = client.get(f"{PATH}/{NAME}").json()
    assert [side["answers"] for side in told["answers"]] == [2]
    newest, first = told["history"]
    assert newest["answers"] == told["answers"]
    assert sum(side["answers"] for side in first["answers"]) == 1


def test_a_stream_is_counted_too(client: TestClient) -> None:
    complete(client, "someone", stream=True)
    assert sum(side["answers"] for side in counted(client).values()) == 1


def test_answers_under_a_models_own_name_are_not_counted(client: TestClient) -> None:
    client.post("/v1/completions", json={"model": FIRST, "prompt": "a"})
    assert sum(side["answers"] for side in counted(client).values()) == 0


def test_metrics_have_each_side(client: TestClient) -> None:
    for user in USERS:
        complete(client, user, max_tokens=2)
    exposed = client.get("/metrics").text
    for model in (FIRST, SECOND):
        count = counted(client)[model]["answers"]
        assert f'loramill_alias_answers_total{{alias="{NAME}",ended="length",model="{model}"}} {count:.1f}' in exposed
        assert f'loramill_alias_answer_seconds_count{{alias="{NAME}",model="{model}"}} {count:.1f}' in exposed
        assert f'loramill_alias_answer_tokens_sum{{alias="{NAME}",model="{model}"}} {2 * count:.1f}' in exposed
