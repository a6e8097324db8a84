"""A method that a path has not is answered by all that it has."""

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/files", "GET, POST"),
        ("/v1/models/a/b", "DELETE, GET"),
        ("/v1/fine_tuning/jobs/x/cancel", "POST"),
        ("/generate", "POST"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "OPTIONS"])
def test_a_405_names_every_method_of_the_path(client: TestClient, method: str, path: str, methods: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert "error" in answer.json()
