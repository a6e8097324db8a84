"""Creates jobs over HTTP."""

from typing import Any

from starlette.testclient import TestClient

from tests.app.conftest import BASE


def create(client: TestClient, file_id: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": BASE, "training_file": file_id} | fields
    return client.post("/v1/fine_tuning/jobs", json=body, headers=headers)
