"""The API's description has every status that a route can answer with."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.http.description.documented_errors import DescribedApi, errors_of
from app.http.description.routes import described_routes
from app.http.route_errors import raises
from core.errors import (
    AuthenticationFailed,
    HostNotAllowed,
    JobHasEnded,
    JobNotFound,
    ModelNotFound,
    OriginNotAllowed,
    ServiceError,
)
from tests.app.conftest import LOCAL, ApiHarness

OPEN = {"/livez", "/readyz", "/health"}
KEY = "correct-horse-battery"


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


@pytest.fixture
def description(harness: ApiHarness) -> dict[str, Any]:
    harness.settings = harness.settings.model_copy(update={"api_key": SecretStr(KEY)})
    with TestClient(harness.app(), base_url=LOCAL, headers={"authorization": f"Bearer {KEY}"}) as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_route_documents_what_is_met_before_it(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        expected = {"400", "421"} | ({"403"} if method in ("post", "delete") else set())
        expected |= set() if path in OPEN else {"401"}
        assert expected <= operation["responses"].keys(), (method, path)


def test_a_deployment_with_a_key_asks_for_it_everywhere_but_at_probes(description: dict[str, Any]) -> None:
    assert {path for _, path, operation in operations(description) if "security" not in operation} == OPEN


def test_a_deployment_without_a_key_is_described_as_asking_for_none(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert "securitySchemes" not in description["components"]
    for method, path, operation in operations(description):
        assert "security" not in operation, (method, path)
        assert "401" not in operation["responses"], (method, path)


def test_every_body_of_json_may_be_too_large(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        if "requestBody" in operation:
            assert "413" in operation["responses"], (method, path)


def test_no_route_documents_the_frameworks_answer_to_bad_fields(description: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in str(description)
    found = {path for _, path, operation in operations(description) if "422" in operation["responses"]}
    # a key of idempotency that comes with another body
    jobs = "/v1/fine_tuning/jobs"
    others = {"/v1/evaluations", "/v1/experiments", "/v1/models/{name}/exports"}
    assert found == {jobs, f"{jobs}/{{job_id}}/rerun"} | others


def test_an_error_is_documented_by_code_in_the_envelope_of_its_path(description: dict[str, Any]) -> None:
    conflict = description["paths"]["/v1/fine_tuning/jobs/{job_id}/pause"]["post"]["responses"]["409"]
    assert f"`{JobHasEnded.code}`: {JobHasEnded.__doc__}" in conflict["description"]
    schemas = [
        description["paths"][path]["post"]["responses"]["404"]["content"]["application/json"]["schema"]
        for path in ("/v1/completions", "/generate")
    ]
    assert [schema["properties"]["error"]["type"] for schema in schemas] == ["object", "string"]


def test_errors_of_dependencies_are_the_routes_too() -> None:
    @raises(JobNotFound)
    def needed() -> None:
        pass

    @raises(ModelNotFound)
    def endpoint(_: None = Depends(needed)) -> None:
        pass

    router = APIRouter()
    router.post("/x")(endpoint)
    app = DescribedApi(has_key=False)
    app.include_router(router)
    [route] = described_routes(app)
    assert {JobNotFound, ModelNotFound, HostNotAllowed, OriginNotAllowed} <= errors_of(route)
    assert AuthenticationFailed not in errors_of(route)
    assert {"404", "403", "421"} <= app.openapi()["paths"]["/x"]["post"]["responses"].keys()


def test_no_route_documents_an_error_that_is_no_answer(harness: ApiHarness) -> None:
    kinds: set[type[ServiceError]] = {kind for route in described_routes(harness.app()) for kind in errors_of(route)}
    assert len(kinds) > 20
    assert all(kind.status != 500 for kind in kinds)
    assert all(kind.__doc__ for kind in kinds)


def test_an_answer_that_is_not_documented_is_found(harness: ApiHarness) -> None:
    app = harness.app()
    app.openapi_schema = copy.deepcopy(app.openapi())
    del app.openapi()["paths"]["/v1/files/{file_id}"]["get"]["responses"]["404"]
    with TestClient(app, base_url=LOCAL) as client:
        client.get("/v1/files/file-x")
    assert harness.undocumented == ["get /v1/files/{file_id} answered 404, which it does not document"]
    harness.undocumented.clear()
