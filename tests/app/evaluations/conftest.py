"""An API that knows an engine for its base model."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, LOCAL, ApiHarness


@pytest.fixture
def client(harness: ApiHarness) -> Iterator[TestClient]:
    harness.settings = harness.settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        yield client
