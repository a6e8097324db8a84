"""Whatever a job is refused for, its estimate and its preview are refused for, in the same words."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE
from tests.app.fine_tuning.wrong_fields import WRONG_FIELDS

EXAMPLES = [{"prompt": "Q:", "completion": " A"}]


def refusal(client: TestClient, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    response = client.post(f"/v1/fine_tuning/{path}", json={"model": BASE} | body)
    return response.status_code, response.json().get("error")


@pytest.mark.parametrize("fields", [fields for fields, _ in WRONG_FIELDS] + [{"model": "other"}])
def test_a_job_its_estimate_and_its_preview_are_refused_alike(
    client: TestClient, file_id: str, fields: dict[str, Any]
) -> None:
    status, error = refusal(client, "jobs", training_file=file_id, **fields)
    assert status in (400, 404)
    assert refusal(client, "estimates", training_file=file_id, **fields) == (status, error)
    assert refusal(client, "preview", training_file=file_id, **fields) == (status, error)
    written_out, of_these = refusal(client, "preview", examples=EXAMPLES, **fields)
    assert (written_out, of_these["code"], of_these["param"]) == (status, error["code"], error["param"])


def test_what_none_is_refused_for_all_take(client: TestClient, file_id: str) -> None:
    for path in ("preview", "estimates", "jobs"):
        assert refusal(client, path, training_file=file_id)[0] == 200
