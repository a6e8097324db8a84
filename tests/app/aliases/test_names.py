"""Alias names in the place of a model's name, on every wire, and what answers say of who gave them."""

import json

import pytest
from starlette.testclient import TestClient

from core.jobs.kind import JobKind
from core.jobs.spec import JobSpec
from core.store import jobs
from tests.app.aliases.moving import DIGESTS, FIRST, NAME, PATH, SECOND, publish_two, put
from tests.app.conftest import BASE, ApiHarness, upload
from tests.app.evaluations.asking import ask, spec_of, train

MESSAGES = [{"role": "user", "content": "a"}]


@pytest.fixture(autouse=True)
def alias(harness: ApiHarness, client: TestClient) -> None:
    publish_two(harness)
    put(client, FIRST)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": NAME, "prompt": "a"}),
        ("/v1/completions", {"model": NAME, "prompt": "a", "stream": True}),
        ("/v1/chat/completions", {"model": NAME, "messages": MESSAGES}),
        ("/v1/chat/completions", {"model": NAME, "messages": MESSAGES, "stream": True}),
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": NAME}}),
        ("/generate_stream", {"inputs": "a", "parameters": {"adapter_id": NAME}}),
        ("/", {"inputs": "a", "parameters": {"adapter_id": NAME}}),
    ],
)
def test_each_wire_asks_the_version_and_says_which_it_was(
    client: TestClient, harness: ApiHarness, path: str, body: dict[str, object]
) -> None:
    for model in (FIRST, SECOND):
        put(client, model)
        response = client.post(path, json=body)
        assert response.status_code == 200
        assert harness.engine.requests[-1].adapter == DIGESTS[model]
        assert response.headers["x-adapter-id"] == model
        assert response.headers["x-model-id"] == BASE


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_openais_answers_name_the_version_and_its_fingerprint(client: TestClient, path: str) -> None:
    asked = (
        {"model": NAME, "prompt": "a"} if path.endswith("/v1/completions") else {"model": NAME, "messages": MESSAGES}
    )
    fingerprints = []
    for model in (FIRST, SECOND, BASE):
        put(client, model)
        answer = client.post(path, json=asked).json()
        assert answer["model"] == model
        fingerprints.append(answer["system_fingerprint"])
        events = client.post(path, json=asked | {"stream": True}).text.split("\n\n")
        chunk = json.loads(events[0].removeprefix("data: "))
        assert (chunk["model"], chunk["system_fingerprint"]) == (model, fingerprints[-1])
    assert fingerprints[0].endswith(DIGESTS[FIRST][:12])
    assert len(set(fingerprints)) == 3


def test_a_rendering_is_the_versions(client: TestClient, harness: ApiHarness) -> None:
    put(client, SECOND)
    client.post("/v1/render", json={"model": NAME, "prompt": "a"})
    assert harness.engine.renderings[-1].adapter == DIGESTS[SECOND]


def test_a_card_is_the_versions(client: TestClient) -> None:
    card = client.get(f"/v1/models/{NAME}/card")
    assert (card.status_code, card.text) == (200, client.get(f"/v1/models/{FIRST}/card").text)


def test_a_base_model_wins_over_an_alias_that_it_was_added_beside(client: TestClient, harness: ApiHarness) -> None:
    put(client, FIRST, "later")
    harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "later")})
    with TestClient(harness.app(), base_url="http://127.0.0.1:8000") as restarted:
        assert restarted.get("/v1/models/later").json()["owned_by"] == "base-model"


def test_an_evaluation_keeps_the_version_that_the_alias_stood_for(client: TestClient, harness: ApiHarness) -> None:
    file_id, other = (upload(client, filename=name).json()["id"] for name in ("a.jsonl", "b.jsonl"))
    train(harness, other, "ft:tiny:local::9", "9" * 64)
    put(client, "ft:tiny:local::9")
    put(client, BASE, "base@prod")
    created = ask(
        client,
        models=["base@prod", NAME],
        file=file_id,
        metrics=["exact_match"],
        gate=["exact_match better than base@prod"],
        memory=False,
    )
    assert created.status_code == 400  # the adapter was trained on these very rows
    assert "trained on" in created.json()["error"]["message"]
    rows = b"".join(b'{"prompt": "q%d", "completion": " c%d"}\n' % (n, n) for n in range(9))
    file_id = upload(client, rows).json()["id"]
    created = ask(
        client,
        models=["base@prod", NAME],
        file=file_id,
        metrics=["exact_match"],
        gate=["exact_match better than base@prod"],
        memory=False,
    )
    evaluation = created.json()
    assert evaluation["models"] == [BASE, "ft:tiny:local::9"]
    assert evaluation["gate"] == [f"exact_match better than {BASE}"]
    [base, tuned] = spec_of(harness, evaluation["id"]).models
    assert base.adapter is None
    assert tuned.adapter is not None
    assert tuned.adapter.adapter_sha256 == "9" * 64


def test_a_job_goes_on_from_the_version_and_its_base_may_be_named_by_an_alias(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    put(client, BASE, "base@prod")
    body = {"model": "base@prod", "training_file": file_id, "continue_from": NAME}
    job = client.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["model"], job["continue_from"]) == (BASE, FIRST)
    with harness.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job["id"], JobKind.FINE_TUNING).spec)
    assert spec.continue_from is not None
    assert spec.continue_from.adapter_sha256 == DIGESTS[FIRST]
    preview = client.post("/v1/fine_tuning/preview", json={"model": "base@prod", "training_file": file_id})
    assert preview.status_code == 200
    report = client.get(f"/v1/files/{file_id}/report", params={"model": "base@prod"})
    assert report.json()["model"] == BASE


def test_an_experiment_goes_on_from_the_version(client: TestClient, file_id: str) -> None:
    body = {
        "job": {"model": BASE, "training_file": file_id, "continue_from": NAME},
        "arms": [{"hyperparameters": {"n_epochs": epochs}} for epochs in (1, 2)],
        "seeds": 1,
    }
    response = client.post("/v1/experiments", json=body)
    assert response.status_code == 200, response.json()
    run = response.json()["runs"][0]["job"]
    assert client.get(f"/v1/fine_tuning/jobs/{run}").json()["continue_from"] == FIRST


def test_an_alias_that_was_deleted_is_no_model(client: TestClient) -> None:
    client.delete(f"{PATH}/{NAME}")
    response = client.post("/v1/completions", json={"model": NAME, "prompt": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
