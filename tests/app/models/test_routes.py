"""Models over HTTP: base models and fine-tuned ones, and names with slashes."""

from pathlib import Path

from starlette.testclient import TestClient

from core.errors import EngineUnavailable
from core.serving.adapter_format import MANIFEST, WEIGHTS
from core.store.references.collector import Collector
from tests.app.conftest import BASE, ApiHarness
from tests.core.store.references.deployment import SHARED_CONFIG, StoreInUse, write_adapter
from tests.harness.models.published_model import publish


def test_base_models_come_first_and_tuned_ones_name_their_parent(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:tiny:local:x:1")
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    base, tuned = listed["data"]
    assert (base["id"], base["object"], base["parent"]) == (BASE, "model", None)
    assert tuned == {
        "id": "ft:tiny:local:x:1",
        "object": "model",
        "created": 3,
        "owned_by": "local",
        "parent": BASE,
        "suffix": None,
        "version": None,
        "model": None,
        "rendering": "verified",
    }
    assert client.get("/v1/models/ft:tiny:local:x:1").json() == tuned


def test_models_of_one_suffix_are_its_versions(client: TestClient, harness: ApiHarness) -> None:
    for number, suffix in enumerate(("bot", "other", "bot")):
        with harness.database.write() as session:
            publish(session, f"ft:tiny:acme:{suffix}:{number}", suffix=suffix)
    listed = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["owned_by"], model["suffix"], model["version"]) for model in listed] == [
        (BASE, "base-model", None, None),
        ("ft:tiny:acme:bot:2", "acme", "bot", 2),
        ("ft:tiny:acme:other:1", "acme", "other", 1),
        ("ft:tiny:acme:bot:0", "acme", "bot", 1),
    ]


def test_pages_of_tuned_models_go_from_the_newest_to_the_oldest(client: TestClient, harness: ApiHarness) -> None:
    names = [f"ft:{number}" for number in range(5)]
    for name in names:
        with harness.database.write() as session:
            publish(session, name)
    seen: list[str] = []
    page = client.get("/v1/models?limit=2").json()
    while True:
        seen += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            break
        page = client.get("/v1/models", params={"limit": 2, "after": page["last_id"]}).json()
    assert seen == [BASE, *names[::-1]]
    after_base = client.get("/v1/models", params={"limit": 2, "after": BASE}).json()
    assert [model["id"] for model in after_base["data"]] == ["ft:4", "ft:3"]


def test_a_page_goes_on_behind_a_model_that_was_deleted_meanwhile(client: TestClient, harness: ApiHarness) -> None:
    for name in ("ft:0", "ft:1", "ft:2"):
        with harness.database.write() as session:
            publish(session, name)
    client.delete("/v1/models/ft:1")
    assert [model["id"] for model in client.get("/v1/models?after=ft:1").json()["data"]] == ["ft:0"]


def test_an_unknown_name_to_go_on_behind_is_refused(client: TestClient) -> None:
    response = client.get("/v1/models?after=ft:none")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


def test_a_name_with_a_slash_is_found_in_both_spellings(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:org/name")
    for spelling in ("ft:org/name", "ft:org%2Fname"):
        assert client.get(f"/v1/models/{spelling}").json()["id"] == "ft:org/name"


def test_a_deleted_model_is_gone(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x")
    assert client.delete("/v1/models/ft:x").json() == {
        "id": "ft:x",
        "object": "model",
        "deleted": True,
        "frees_bytes": 0,  # of this made-up adapter nothing is stored
        "keeps": [],
    }
    for response in (
        client.get("/v1/models/ft:x"),
        client.delete("/v1/models/ft:x"),
        client.post("/v1/completions", json={"model": "ft:x", "prompt": "a"}),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert harness.engine.requests == []


def test_a_base_model_cannot_be_deleted(client: TestClient) -> None:
    response = client.delete(f"/v1/models/{BASE}")
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert client.get(f"/v1/models/{BASE}").status_code == 200


def test_an_engine_is_told_to_forget_a_deleted_model(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
    client.delete("/v1/models/ft:x")
    assert harness.engine.unloaded == ["e" * 64]


def test_what_another_name_still_leads_to_is_not_forgotten(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x", digest="e" * 64)
        publish(session, "ft:y", digest="e" * 64)
    client.delete("/v1/models/ft:x")
    assert harness.engine.unloaded == []
    client.delete("/v1/models/ft:y")
    assert harness.engine.unloaded == ["e" * 64]


def test_an_engine_that_is_away_does_not_keep_a_model_from_being_deleted(
    client: TestClient, harness: ApiHarness
) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x")
    harness.engine.fails_before = EngineUnavailable(BASE, "no answer")
    assert client.delete("/v1/models/ft:x").status_code == 200
    assert client.get("/v1/models/ft:x").status_code == 404


def test_a_deleted_model_says_what_it_frees_and_that_is_freed(
    client: TestClient, harness: ApiHarness, tmp_path: Path
) -> None:
    store = StoreInUse(harness.database, harness.blobs)
    folders = [write_adapter(tmp_path / f"adapter-{number}", b"weights %d" % number) for number in range(2)]
    names = [store.publish(store.claimed(), folder) for folder in folders]
    stored = store.objects()
    tried = client.delete(f"/v1/models/{names[0]}?dry_run=true").json()
    assert client.get(f"/v1/models/{names[0]}").status_code == 200
    done = client.delete(f"/v1/models/{names[0]}").json()
    assert (tried["deleted"], done["deleted"]) == (False, True)
    assert tried | {"deleted": True} == done
    assert done["keeps"] == [f"{len(SHARED_CONFIG)} bytes stay: {names[1]} needs them too"]
    frees = done["frees_bytes"]
    assert frees == sum((folders[0] / name).stat().st_size for name in (MANIFEST, WEIGHTS))  # not the shared config
    assert store.objects() == stored

    freed = Collector(harness.database, harness.blobs, grace_s=0).collect()
    assert sum(blob.bytes for blob in freed) == frees
    assert len(store.objects()) == len(stored) - 2
    assert store.lost() == set()
