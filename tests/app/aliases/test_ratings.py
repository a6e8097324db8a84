"""Answers for an alias are rated by their ids, and counted for the model that gave them."""

import time
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from core.errors import AnswerNotFound
from core.ids import new_id
from core.store.aliases import ratings
from core.store.tables import AliasRatingRecord
from tests.app.aliases.moving import FIRST, NAME, PATH, SECOND, publish_two, put
from tests.app.conftest import ApiHarness

USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture(autouse=True)
def split(harness: ApiHarness, client: TestClient) -> None:
    publish_two(harness)
    put(client, FIRST, canary={"model": SECOND, "percent": 50})


def ask(client: TestClient, user: str = "someone", model: str = NAME) -> tuple[str, str]:
    """Give the id of an answer, and the model that gave it."""
    answer = client.post("/v1/completions", json={"model": model, "prompt": "a", "user": user}).json()
    return answer["id"], answer["model"]


def rate(client: TestClient, answer_id: str, rating: str = "up", alias: str = NAME) -> httpx2.Response:
    return client.post(f"{PATH}/{alias}/ratings", json={"id": answer_id, "rating": rating})


def rated(client: TestClient) -> dict[str, tuple[int, int]]:
    sides = client.get(f"{PATH}/{NAME}").json()["answers"]
    return {side["model"]: (side["rated_up"], side["rated_down"]) for side in sides}


def test_a_rating_is_counted_for_the_side_that_answered(client: TestClient) -> None:
    expected = {FIRST: [0, 0], SECOND: [0, 0]}
    for number, user in enumerate(USERS):
        answer_id, model = ask(client, user)
        is_up = number % 3 == 0
        told = rate(client, answer_id, "up" if is_up else "down").json()
        assert (told["id"], told["model"], told["move"]) == (answer_id, model, 1)
        expected[model][0 if is_up else 1] += 1
    assert rated(client) == {model: tuple(counts) for model, counts in expected.items()}
    assert all(sum(counts) for counts in expected.values())


def test_one_answer_counts_once_and_as_it_was_rated_last(client: TestClient) -> None:
    answer_id, model = ask(client)
    for rating, counts in (("up", (1, 0)), ("up", (1, 0)), ("down", (0, 1)), ("down", (0, 1)), ("up", (1, 0))):
        assert rate(client, answer_id, rating).status_code == 200
        assert rated(client)[model] == counts


def test_answers_of_chats_and_of_streams_are_rated_too(client: TestClient) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "b"}], "user": "someone"}
    chat = client.post("/v1/chat/completions", json=body).json()["id"]
    stream = client.post("/v1/completions", json={"model": NAME, "prompt": "a", "stream": True}).text
    streamed = stream.split('"id":"')[1].split('"')[0]
    assert chat.startswith("chatcmpl-")
    assert [rate(client, each).status_code for each in (chat, streamed)] == [200, 200]


def test_it_counts_for_the_move_that_the_answer_was_given_by(client: TestClient) -> None:
    answer_id, model = ask(client)
    put(client, SECOND)
    assert rate(client, answer_id).json()["move"] == 1
    told = client.get(f"{PATH}/{NAME}").json()
    assert [side["rated_up"] for side in told["answers"]] == [0]
    assert {side["model"]: side["rated_up"] for side in told["history"][1]["answers"]}[model] == 1


def refused(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_unknown_ids_are_404(client: TestClient) -> None:
    client.put(f"{PATH}/other@prod", json={"model": FIRST})
    mine, of_other, plain = ask(client)[0], ask(client, model="other@prod")[0], ask(client, model=FIRST)[0]
    head, move, mac = mine.rsplit("-", 2)
    guessed = (
        of_other,
        plain,
        "nonsense",
        f"{new_id('cmpl-')}-{move}-{mac}",
        f"{head}-2-{mac}",
        f"{head}-999999999-{mac}",
        f"{head}-{move}-{mac[:-1]}{'0' if mac[-1] != '0' else '1'}",
    )
    for each in guessed:
        assert refused(rate(client, each)) == (404, "answer_not_found"), each
    assert refused(rate(client, mine, alias="none@prod")) == (404, "alias_not_found")
    assert set(rated(client).values()) == {(0, 0)}


def test_other_ratings_are_refused(client: TestClient) -> None:
    answer_id = ask(client)[0]
    for body in ({"id": answer_id, "rating": "best"}, {"id": answer_id}, {"rating": "up"}):
        assert client.post(f"{PATH}/{NAME}/ratings", json=body).status_code == 400


def test_after_thirty_days_an_answer_is_rated_no_more_and_its_rating_is_forgotten(
    client: TestClient, harness: ApiHarness
) -> None:
    answer_id, _ = ask(client)
    assert rate(client, answer_id).status_code == 200
    later = int(time.time()) + ratings.RATED_WITHIN_S + 60
    fresh: Any = ask(client)[0]
    with harness.database.write() as session:
        with pytest.raises(AnswerNotFound):
            ratings.rate(session, NAME, answer_id, "down", later)
        ratings.rate(session, NAME, fresh, "up", int(time.time()))
        assert session.query(AliasRatingRecord).count() == 2
        session.query(AliasRatingRecord).filter_by(answer_id=answer_id.rsplit("-", 2)[0]).update({"created_at": 1})
        ratings.rate(session, NAME, fresh, "up", int(time.time()))
        assert session.query(AliasRatingRecord).count() == 1
    assert sum(up for up, _ in rated(client).values()) == 2
