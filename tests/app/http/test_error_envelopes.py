"""The headers beside errors, and how the framework's own refusals are worded."""

import pytest
from starlette.testclient import TestClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.http.error_envelopes import Wire, problem_of
from core.errors import InvalidParameter, ServiceError, TrainingError
from tests.app.conftest import LOCAL, ApiHarness
from tests.core.errors.samples import all_errors, sample_of


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_no_answer_says_both_when_to_retry_and_not_to(error: ServiceError) -> None:
    problem = problem_of(error)
    if problem.status == 500:
        assert problem.headers == {}
    elif error.retry_after_s is not None:
        assert problem.headers["retry-after"] == str(error.retry_after_s)
        assert "x-should-retry" not in problem.headers
    else:
        assert "retry-after" not in problem.headers
        assert ("x-should-retry" in problem.headers) == (problem.status == 409 or problem.status > 500)


def test_a_jobs_error_never_becomes_a_status() -> None:
    assert problem_of(TrainingError("internals")).status == 500
    assert "internals" not in problem_of(TrainingError("internals")).message


def test_the_envelopes_differ_by_wire() -> None:
    problem = problem_of(InvalidParameter("x", "is wrong"))
    assert problem.body(Wire.OPENAI) == {
        "error": {
            "message": "x: is wrong",
            "type": "invalid_request_error",
            "param": "x",
            "code": "invalid_parameter",
        }
    }
    assert problem.body(Wire.TGI) == {"error": "x: is wrong", "error_type": "validation"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/nowhere", 404), ("PUT", "/v1/files", 405)]
)
def test_unknown_paths_and_methods_answer_in_the_envelope(
    client: TestClient, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{broken", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 32_000, "application/json"),
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b"", "application/json"),
        (b"{}", "text/plain"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', "application/json"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "application/json"),
    ],
)
def test_a_malformed_body_is_400_and_never_500(
    client: TestClient, harness: ApiHarness, content: bytes, content_type: str
) -> None:
    response = client.post("/v1/completions", content=content, headers={"content-type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert harness.engine.requests == []


def test_a_body_that_is_too_large_is_413_in_the_envelope(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"model": "tiny", "prompt": "a" * (9 * 2**20)})
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/files/a%00b", "/v1/files?after=%00"])
def test_a_nul_in_a_url_is_400(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 400


def test_every_response_has_a_request_id_of_its_own(client: TestClient) -> None:
    ids = [client.get(path).headers["x-request-id"] for path in ("/livez", "/nowhere", "/v1/models")]
    assert len(set(ids)) == 3


def test_an_unexpected_error_is_logged_and_told_nothing_of(harness: ApiHarness) -> None:
    harness.engine.fails_before = KeyError("a secret")
    with TestClient(harness.app(), base_url=LOCAL) as client, capture_logs([merge_contextvars]) as logged:
        response = client.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    (entry,) = [entry for entry in logged if entry["log_level"] == "error"]
    assert entry["exc_info"]
    assert entry["request_id"] == response.headers["x-request-id"]


def test_a_database_that_is_away_is_503(harness: ApiHarness) -> None:
    with TestClient(harness.app(), base_url=LOCAL) as client:
        (harness.settings.home / "loramill.db").unlink()
        (harness.settings.home / "loramill.db").mkdir()
        response = client.get("/v1/files")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "database_unavailable"
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("kind", list(ServiceError.tree()))
def test_no_error_of_the_tree_tells_a_path_of_this_machine(kind: type[ServiceError]) -> None:
    error = sample_of(kind, text="it lies in /usr/lib/somewhere/file.bin")
    assert "/usr" not in problem_of(error).message
