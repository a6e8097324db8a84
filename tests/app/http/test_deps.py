"""What is asked of every request, whichever route it is for."""

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize("path", ["/v1/models", "/v1/fine_tuning/jobs", "/v1/files", "/v1/models/x/card"])
def test_a_parameter_that_stands_twice_in_the_query_is_refused_by_name(client: TestClient, path: str) -> None:
    response = client.get(f"{path}?limit=1&limit=2")
    assert response.status_code == 400
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == ("limit", "invalid_parameter")
