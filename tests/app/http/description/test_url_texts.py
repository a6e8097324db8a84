"""What the description says of texts in URLs is what is refused."""

import re

from starlette.testclient import TestClient


def test_a_text_that_no_url_may_hold_is_forbidden_by_the_schema_of_every_text_in_one(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    parameters = [
        parameter
        for operations in paths.values()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] in ("path", "query")
    ]
    texts = [
        schema
        for parameter in parameters
        for schema in (parameter["schema"], *parameter["schema"].get("anyOf", ()))
        if schema.get("type") == "string" and "enum" not in schema
    ]
    assert len(texts) > 20
    assert not [schema for schema in texts if re.search(schema["pattern"], "a\0b")]
    assert client.get("/v1/experiments", params={"after": "a\0b"}).status_code == 400
    assert client.get("/v1/experiments/a%00b").status_code == 400
