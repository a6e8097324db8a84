"""Whether the process lives and can serve."""

from starlette.testclient import TestClient

from core.errors import EngineStarting, EngineUnavailable
from tests.app.conftest import BASE, LOCAL, ApiHarness


def test_a_living_process_says_so(client: TestClient) -> None:
    assert client.get("/livez").json() == {"alive": True}


def test_ready_when_database_and_engine_answer(client: TestClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["ready"] is True
    assert response.json()["parts"]["database"]["ok"] is True
    assert response.json()["parts"][f"engine:{BASE}"]["ok"] is True


def test_not_ready_while_an_engine_is_away(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.info_error = EngineUnavailable(BASE, "no answer")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"][f"engine:{BASE}"]["ok"] is False


def test_while_an_engine_starts_it_is_said_what_that_is_at(client: TestClient, harness: ApiHarness) -> None:
    harness.engine.info_error = EngineStarting(BASE, "timing steps (3 of at most 10 s)")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"][f"engine:{BASE}"] == {
        "ok": False,
        "detail": f"the engine for {BASE} is starting: timing steps (3 of at most 10 s)",
    }


def test_not_ready_while_the_database_is_away(client: TestClient, harness: ApiHarness) -> None:
    (harness.settings.home / "loramill.db").unlink()
    (harness.settings.home / "loramill.db").mkdir()
    response = client.get("/readyz")
    assert (response.status_code, response.json()["parts"]["database"]["ok"]) == (503, False)


def test_a_base_model_without_an_engine_is_not_ready(harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "other")})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        response = client.get("/readyz")
    assert response.status_code == 503
    assert "LORAMILL_ENGINE_URLS" in response.json()["parts"]["engine:other"]["detail"]


def test_a_missing_broker_is_reported_and_does_not_matter(client: TestClient, harness: ApiHarness) -> None:
    harness.notifier.reaches = False
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["parts"]["broker"]["ok"] is False
