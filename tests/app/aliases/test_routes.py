"""Aliases over HTTP: set, moved, rolled back and deleted; their history; and all that they are refused for."""

import pytest
from starlette.testclient import TestClient

from core.errors import EngineUnavailable
from tests.app.aliases.moving import DIGESTS, FIRST, NAME, PATH, SECOND, publish_two, put, refusal
from tests.app.conftest import BASE, ApiHarness


@pytest.fixture(autouse=True)
def versions(harness: ApiHarness) -> None:
    publish_two(harness)


def test_an_alias_is_set_moved_rolled_back_and_deleted_and_its_history_tells(client: TestClient) -> None:
    first = put(client, FIRST, reason="the first one").json()
    assert {name: first[name] for name in ("id", "object", "model", "canary", "move")} == {
        "id": NAME,
        "object": "model.alias",
        "model": FIRST,
        "canary": None,
        "move": 1,
    }
    put(client, SECOND)
    assert client.get(f"{PATH}/{NAME}").json()["model"] == SECOND
    back = client.post(f"{PATH}/{NAME}/rollback", params={"reason": "it was worse"}).json()
    assert (back["model"], back["move"]) == (FIRST, 3)
    history = client.get(f"{PATH}/{NAME}").json()["history"]
    assert [(move["number"], move["action"], move["by"], move["reason"]) for move in history] == [
        (3, "rollback", "anonymous", "it was worse"),
        (2, "set", "anonymous", None),
        (1, "set", "anonymous", "the first one"),
    ]
    assert (history[0]["before"]["model"], history[0]["after"]["model"]) == (SECOND, FIRST)
    assert client.delete(f"{PATH}/{NAME}").json() == {"id": NAME, "object": "model.alias", "deleted": True}
    for response in (
        client.get(f"{PATH}/{NAME}"),
        client.delete(f"{PATH}/{NAME}"),
        client.post(f"{PATH}/{NAME}/rollback"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "alias_not_found")
    assert put(client, FIRST).json()["move"] == 5


def test_a_history_comes_in_pages(client: TestClient) -> None:
    for model in (FIRST, SECOND, FIRST):
        put(client, model)
    newest = client.get(f"{PATH}/{NAME}", params={"limit": 2}).json()
    assert ([move["number"] for move in newest["history"]], newest["has_more"]) == ([3, 2], True)
    oldest = client.get(f"{PATH}/{NAME}", params={"limit": 2, "after": 2}).json()
    assert ([move["number"] for move in oldest["history"]], oldest["has_more"]) == ([1], False)


def test_aliases_are_listed_by_name_in_pages(client: TestClient) -> None:
    for name in ("c", "a", "b"):
        put(client, FIRST, name)
    page = client.get(PATH, params={"limit": 2}).json()
    assert ([alias["id"] for alias in page["data"]], page["has_more"]) == (["a", "b"], True)
    assert [alias["id"] for alias in client.get(PATH, params={"after": page["last_id"]}).json()["data"]] == ["c"]


def test_the_new_adapter_is_loaded_before_the_alias_moves(client: TestClient, harness: ApiHarness) -> None:
    put(client, FIRST)
    assert harness.engine.warmed == [DIGESTS[FIRST]]
    harness.engine.fails_before = EngineUnavailable(BASE, "no answer")
    refused = put(client, SECOND)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    alias = client.get(f"{PATH}/{NAME}").json()
    assert (alias["model"], len(alias["history"])) == (FIRST, 1)


def test_an_alias_stands_for_a_base_model_or_a_checkpoint_too(client: TestClient) -> None:
    assert put(client, BASE).json()["model"] == BASE
    completion = client.post("/v1/completions", json={"model": NAME, "prompt": "a"})
    assert (completion.json()["model"], "x-adapter-id" in completion.headers) == (BASE, False)


def test_under_an_alias_name_a_model_tells_what_it_stands_for(client: TestClient) -> None:
    put(client, SECOND)
    told = client.get(f"/v1/models/{NAME}").json()
    assert (told["id"], told["model"], told["parent"], told["version"]) == (NAME, SECOND, BASE, 2)
    put(client, BASE)
    assert client.get(f"/v1/models/{NAME}").json()["parent"] == BASE


@pytest.mark.parametrize("name", ["ft:tiny:local:bot:3", "-x", "a b", "x" * 129, "ä"])
def test_a_name_that_a_model_could_have_or_that_is_none_is_refused(client: TestClient, name: str) -> None:
    status, param, said = refusal(put(client, FIRST, name))
    assert (status, param) == (400, "name")
    assert "match pattern" in said


@pytest.mark.parametrize("name", [BASE, "phi-2", "tgi", "dummy"])  # phi-2 is registered and not served here
def test_an_alias_does_not_hide_a_base_model(client: TestClient, name: str) -> None:
    status, param, said = refusal(put(client, FIRST, name))
    assert (status, param) == (400, "name")
    assert f"{name} is the name of a base model" in said


def test_an_alias_stands_for_no_alias_and_not_for_itself(client: TestClient) -> None:
    put(client, FIRST)
    for name in (NAME, "other@prod"):
        status, param, said = refusal(put(client, NAME, name))
        assert (status, param) == (400, "model")
        assert f"{NAME} is an alias" in said
        assert FIRST in said
    canary = {"model": NAME, "percent": 5}
    assert refusal(put(client, SECOND, canary=canary))[:2] == (400, "canary.model")
    assert refusal(put(client, "other@prod", "other@prod"))[:2] == (400, "model")


def test_unknown_models_and_splits_that_are_none_are_refused(client: TestClient) -> None:
    for fields, param in (
        ({"model": "ft:none"}, "model"),
        ({"model": "tgi"}, "model"),
        ({"model": FIRST, "canary": {"model": "ft:none", "percent": 5}}, "canary.model"),
        ({"model": FIRST, "canary": {"model": FIRST, "percent": 5}}, "canary.model"),
        ({"model": FIRST, "canary": {"model": SECOND, "percent": 0}}, "canary.percent"),
        ({"model": FIRST, "canary": {"model": SECOND, "percent": 100}}, "canary.percent"),
        ({"model": FIRST, "canary": {"model": SECOND}}, "canary.percent"),
        ({"model": FIRST, "rollback": True}, "rollback"),
    ):
        response = client.put(f"{PATH}/{NAME}", json=fields)
        assert refusal(response)[:2] == (400, param), fields


def test_what_is_refused_leaves_nothing(client: TestClient, harness: ApiHarness) -> None:
    for model in ("ft:none", NAME):
        put(client, model)
    put(client, FIRST, BASE)
    assert client.get(PATH).json()["data"] == []
    assert client.get(f"{PATH}/{NAME}").status_code == 404
    assert harness.engine.warmed == []


def test_a_model_is_not_deleted_while_an_alias_stands_for_it(client: TestClient) -> None:
    put(client, FIRST, canary={"model": SECOND, "percent": 5})
    for model in (FIRST, SECOND):
        refused = client.delete(f"/v1/models/{model}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")
        assert NAME in refused.json()["error"]["message"]
    client.delete(f"{PATH}/{NAME}")
    assert client.delete(f"/v1/models/{FIRST}").status_code == 200


def test_a_model_is_not_deleted_by_an_alias_name(client: TestClient) -> None:
    put(client, FIRST)
    assert refusal(client.delete(f"/v1/models/{NAME}"))[:2] == (400, "model")
    assert client.get(f"/v1/models/{FIRST}").status_code == 200


def test_a_rollback_says_why_in_its_address_and_takes_no_body(client: TestClient) -> None:
    put(client, FIRST)
    put(client, SECOND)
    refused = client.post(f"{PATH}/{NAME}/rollback", json={"reason": "it was worse"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "this request takes no body; leave it out",
    )
    assert client.get(f"{PATH}/{NAME}").json()["model"] == SECOND


def test_nothing_to_go_back_to_is_said(client: TestClient) -> None:
    put(client, FIRST)
    refused = client.post(f"{PATH}/{NAME}/rollback")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_roll_back")
    put(client, SECOND)
    client.delete(f"/v1/models/{FIRST}")
    refused = client.post(f"{PATH}/{NAME}/rollback")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_roll_back")
    assert FIRST in refused.json()["error"]["message"]
    assert client.get(f"{PATH}/{NAME}").json()["model"] == SECOND


def test_a_model_that_is_deleted_while_its_adapter_is_loaded_is_refused(
    client: TestClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def delete_meanwhile(_digest: str) -> None:
        with harness.database.write() as session:
            from core.store import adapters

            adapters.delete(session, FIRST)

    monkeypatch.setattr(harness.engine, "warm", delete_meanwhile)
    status, param, said = refusal(put(client, FIRST))
    assert (status, param) == (400, "model")
    assert "deleted meanwhile" in said
    assert client.get(f"{PATH}/{NAME}").status_code == 404
