"""What the API does with a file whose stored bytes have changed: none of them leaves, and nothing is made of them."""

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, EXAMPLES, ApiHarness, upload

READERS = {
    "download": lambda client, file_id: client.get(f"/v1/files/{file_id}/content"),
    "report": lambda client, file_id: client.get(f"/v1/files/{file_id}/report", params={"model": BASE}),
    "report, as the validation file": lambda client, file_id: client.get(
        f"/v1/files/{upload(client).json()['id']}/report", params={"model": BASE, "validation_file": file_id}
    ),
    "preview": lambda client, file_id: client.post(
        "/v1/fine_tuning/preview", json={"model": BASE, "training_file": file_id}
    ),
    "estimate": lambda client, file_id: client.post(
        "/v1/fine_tuning/estimates", json={"model": BASE, "training_file": file_id}
    ),
    "job": lambda client, file_id: client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}),
}


@pytest.fixture
def changed_id(client: TestClient, harness: ApiHarness) -> str:
    """Id of a file of which the last line's completion has changed on disk."""
    content = EXAMPLES + b'{"prompt": "p", "completion": " cat"}\n'
    file_id = str(upload(client, content).json()["id"])
    [path] = [path for path in harness.stored_bytes() if path.read_bytes() == content]
    path.write_bytes(content.replace(b"cat", b"cap"))
    return file_id


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_no_route_reads_them(client: TestClient, harness: ApiHarness, changed_id: str, read) -> None:  # type: ignore[no-untyped-def]
    response = read(client, changed_id)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "blob_damaged"
    assert response.headers["x-should-retry"] == "false"
    assert str(harness.settings.home) not in response.text
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_download_names_the_file_and_sends_none_of_it(client: TestClient, changed_id: str) -> None:
    response = client.get(f"/v1/files/{changed_id}/content")
    assert f"file {changed_id}" in response.json()["error"]["message"]
    assert b"cap" not in response.content


def test_the_same_upload_mends_the_file_that_had_them(client: TestClient, changed_id: str) -> None:
    content = EXAMPLES + b'{"prompt": "p", "completion": " cat"}\n'
    upload(client, content)
    assert client.get(f"/v1/files/{changed_id}/content").content == content
