"""The answers that lead to others name routes and parameters that there are."""

from typing import Any

from starlette.testclient import TestClient

from tests.app.conftest import EXAMPLES, upload


def operations(client: TestClient) -> dict[str, dict[str, Any]]:
    paths = client.get("/openapi.json").json()["paths"]
    found = [operation for methods in paths.values() for operation in methods.values()]
    by_id = {operation["operationId"]: operation for operation in found}
    assert len(by_id) == len(found)  # each name stands for one route
    return by_id


def links_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return list(operation["responses"]["200"].get("links", {}).values())


def test_every_link_leads_to_a_route_by_a_parameter_of_it(client: TestClient) -> None:
    by_id = operations(client)
    links = [link for operation in by_id.values() for link in links_of(operation)]
    assert len(links) > 10
    for link in links:
        parameters = {parameter["name"] for parameter in by_id[link["operationId"]]["parameters"]}
        assert link["parameters"].keys() <= parameters


def test_what_is_made_leads_to_all_that_can_be_asked_of_it(client: TestClient) -> None:
    by_id = operations(client)
    for made, parameter in (
        ("upload_file", "file_id"),
        ("create_job", "job_id"),
        ("create_evaluation", "evaluation_id"),
        ("create_experiment", "experiment_id"),
    ):
        leads_to = {link["operationId"] for link in links_of(by_id[made])}
        takes = {name for name, found in by_id.items() if parameter in {p["name"] for p in found.get("parameters", [])}}
        assert leads_to == takes


def test_the_value_of_a_link_is_in_the_answer(client: TestClient) -> None:
    made = upload(client, EXAMPLES).json()
    links = links_of(operations(client)["upload_file"])
    assert {link["parameters"]["file_id"] for link in links} == {"$response.body#/id"}
    assert client.get(f"/v1/files/{made['id']}").status_code == 200
