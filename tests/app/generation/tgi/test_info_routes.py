"""What text-generation-inference's clients ask beside text, on a scripted engine."""

import pytest
from starlette.testclient import TestClient

from core.errors import EngineUnavailable
from core.text.tokenizer import TextTokenizer
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.harness.models.published_model import publish
from tests.harness.stub_engine import CONTEXT_TOKENS


def test_the_server_says_what_it_serves(client: TestClient, harness: ApiHarness) -> None:
    info = client.get("/info").json()
    assert (info["model_id"], info["model_dtype"], info["model_device_type"]) == (BASE, "float32", "cpu")
    assert info["max_total_tokens"] == CONTEXT_TOKENS
    assert info["max_concurrent_requests"] == 8 + harness.settings.engine_max_waiting


def test_a_fine_tuned_model_is_described_by_its_base(client: TestClient, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:x")
    assert client.get("/info", params={"model": "ft:x"}).json()["model_id"] == BASE


@pytest.mark.parametrize(("method", "path"), [("GET", "/info"), ("POST", "/tokenize")])
def test_several_base_models_need_a_name(harness: ApiHarness, method: str, path: str) -> None:
    harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "other")})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = client.request(method, path, json={"inputs": "a"})
    assert (response.status_code, response.json()["error_type"]) == (400, "validation")
    assert response.json()["error"].startswith("model: ")


def test_healthy_means_that_the_engine_answers(client: TestClient, harness: ApiHarness) -> None:
    assert client.get("/health").status_code == 200
    harness.engine.info_error = EngineUnavailable(BASE, "no answer")
    for path in ("/health", "/info"):
        response = client.get(path)
        assert (response.status_code, response.json()["error_type"]) == (503, "unavailable")


def test_tokens_have_the_characters_that_they_stand_for(client: TestClient) -> None:
    tokens = client.post("/tokenize", json={"inputs": "aé"}).json()
    assert [(token["text"], token["start"], token["stop"]) for token in tokens] == [
        ("a", 0, 1),
        ("é", 1, 2),
        ("é", 1, 2),
    ]
    assert len({token["id"] for token in tokens}) == 3


def test_a_wrong_body_is_told_in_this_wires_envelope(client: TestClient) -> None:
    response = client.post("/tokenize", json={"inputs": ""})
    assert response.status_code == 400
    assert set(response.json()) == {"error", "error_type"}


def test_a_text_of_more_tokens_than_the_context_is_not_tokenised_for_show(client: TestClient) -> None:
    assert len(client.post("/tokenize", json={"inputs": "a" * 512}).json()) == 512
    response = client.post("/tokenize", json={"inputs": "a" * 513})
    assert response.status_code == 400
    assert response.json() == {
        "error": "the text has 513 tokens, and the model's context holds 512; send it in parts",
        "error_type": "validation",
    }


def test_one_that_cannot_have_so_few_is_refused_by_its_length(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_encode(_tokenizer: TextTokenizer, _text: str) -> None:
        raise AssertionError("it was tokenised")

    assert client.post("/tokenize", json={"inputs": "a"}).status_code == 200
    monkeypatch.setattr(TextTokenizer, "_encoding", refuse_to_encode)
    response = client.post("/tokenize", json={"inputs": "a" * 7_000_000})
    assert response.status_code == 400
    assert "has at least 538462 tokens" in response.json()["error"]  # 13 bytes are in <|endoftext|>
