"""/v1/files/{id}/report: over HTTP, with the byte tokenizer as the base model's."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, CONTEXT_TOKENS, LOCAL, ApiHarness, upload
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.harness.parquet_files import parquet_of

GOOD = b'{"prompt": "Which is the largest?", "completion": " The blue one."}\n'
AGAIN = GOOD + b'{"prompt": "Where do they live?", "completion": " In the far north."}\n' + GOOD


@pytest.fixture(autouse=True)
def _tokenizer(harness: ApiHarness) -> None:
    write_byte_tokenizer(harness.settings.base_models_folder / BASE)


def file_of(client: TestClient, content: bytes) -> str:
    return str(upload(client, content).json()["id"])


def report(client: TestClient, file_id: str, **query: Any) -> Any:
    return client.get(f"/v1/files/{file_id}/report", params={"model": BASE, **query})


def test_a_report_has_findings_statistics_and_a_recommendation(client: TestClient) -> None:
    file_id = file_of(client, AGAIN)
    body = report(client, file_id).json()
    assert {key: body[key] for key in ("object", "file", "model", "max_length", "examples", "severity")} == {
        "object": "file.report",
        "file": file_id,
        "model": BASE,
        "max_length": CONTEXT_TOKENS,
        "examples": 3,
        "severity": {"error": 0, "warning": 1, "info": 0},
    }
    assert body["findings"] == [
        {
            "file": "training_file",
            "severity": "warning",
            "code": "duplicate",
            "message": "An exact repetition of an earlier example: 1 example. The first, line 3, repeats line 1.",
            "remedy": "Keep one of each, unless it is meant to weigh more.",
            "count": 1,
            "lines": [3],
            "numbers": {},
        }
    ]
    assert body["statistics"]["tokens"]["max"] == 38
    assert body["statistics"]["trained"]["completion_tokens"] == 15 + 19 + 15
    assert body["recommendation"]["prompt_loss_weight"] == 0
    assert body["recommendation"]["sources"]


def test_a_file_with_wrong_lines_has_a_report_too(client: TestClient) -> None:
    content = GOOD + b'{"prompt": "b"}\n' + b"not JSON\n" + b'{"prompt": "c", "completion": " "}\n'
    uploaded = upload(client, content).json()
    assert uploaded["status"] == "error"
    body = report(client, uploaded["id"]).json()
    assert body["severity"]["error"] == 2
    lines = {finding["code"]: finding["lines"] for finding in body["findings"]}
    assert lines == {"malformed": [2, 3], "empty_completion": [4]}
    assert body["examples"] == 1


def test_over_long_lines_are_reported_without_being_read(client: TestClient, harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"max_line_bytes": 100, "max_upload_bytes": 10_000})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        file_id = file_of(client, GOOD + b'{"prompt": "%s", "completion": "c"}\n' % (b"a" * 500) + GOOD)
        body = report(client, file_id).json()
    assert (body["findings"][0]["code"], body["findings"][0]["lines"]) == ("line_too_long", [2])
    assert body["examples"] == 2


def test_parquet_with_problems_is_not_read_again_in_this_process(client: TestClient) -> None:
    good = file_of(client, AGAIN)
    broken = upload(client, b"PAR1 and no more", filename="x.parquet").json()
    for response, param in (
        (report(client, broken["id"]), "file_id"),
        (report(client, good, validation_file=broken["id"]), "validation_file"),
    ):
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param
        assert "line 1: the file is damaged" in response.json()["error"]["message"]


def test_parquet_without_problems_has_a_report(client: TestClient) -> None:
    content = parquet_of({"prompt": ["a", "b"], "completion": ["c", "d"]})
    file_id = upload(client, content, filename="x.parquet").json()["id"]
    assert report(client, file_id).json()["examples"] == 2


def test_a_validation_file_is_compared(client: TestClient) -> None:
    body = report(client, file_of(client, AGAIN), validation_file=file_of(client, GOOD)).json()
    found = {(finding["file"], finding["code"]): finding["lines"] for finding in body["findings"]}
    assert found["validation_file", "validation_overlap"] == [1]


def test_the_jobs_fields_decide_what_examples_become(client: TestClient) -> None:
    file_id = file_of(client, b'{"question": "Is it \\"blue\\"?", "answer": "yes"}\n')
    written = json.dumps({"prompt": "Q: {{question}}\nA: ", "completion": "{{answer}}"})
    body = report(client, file_id, prompt_format=written, max_length=30, over_length="error").json()
    assert [finding["code"] for finding in body["findings"]] == ["space_moved"]
    trained = body["statistics"]["trained"]
    assert (trained["prompt_tokens"], trained["completion_tokens"], trained["trained_tokens"]) == (19, 5, 5)
    weighted = report(client, file_id, prompt_format=written, prompt_loss_weight=0.1).json()
    assert weighted["statistics"]["trained"]["trained_tokens"] == 23
    refused = report(client, file_id, prompt_format=written, max_length=20, over_length="error").json()
    assert "over_length_refused" in {finding["code"] for finding in refused["findings"]}


def test_columns_without_a_prompt_format_are_an_error_in_the_report(client: TestClient) -> None:
    body = report(client, file_of(client, b'{"question": "q", "answer": "a"}\n')).json()
    assert [(finding["severity"], finding["code"]) for finding in body["findings"]] == [("error", "cannot_render")]


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"model": "unknown"}, 404, "model"),
        ({"max_length": CONTEXT_TOKENS + 1}, 400, "max_length"),
        ({"max_length": 7}, 400, "max_length"),
        ({"over_length": "cut"}, 400, "over_length"),
        ({"prompt_loss_weight": 1.5}, 400, "prompt_loss_weight"),
        ({"prompt_format": "{"}, 400, "prompt_format"),
        ({"prompt_format": '{"prompt": "a"}'}, 400, "prompt_format"),
        ({"prompt_format": '{"prompt": "{{a", "completion": "b"}'}, 400, "prompt_format.prompt"),
        ({"validation_file": "file-none"}, 400, "validation_file"),
        ({"n_epochs": 3}, 400, "n_epochs"),
    ],
)
def test_wrong_fields_are_refused_by_name(client: TestClient, query: dict[str, Any], status: int, param: str) -> None:
    answer = report(client, file_of(client, GOOD), **query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_an_unknown_file_is_not_found(client: TestClient) -> None:
    answer = report(client, "file-none")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


def test_the_model_is_required(client: TestClient, file_id: str) -> None:
    answer = client.get(f"/v1/files/{file_id}/report")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_a_base_model_that_is_not_imported_can_be_tried_again_later(client: TestClient, harness: ApiHarness) -> None:
    file_id = file_of(client, GOOD)
    (harness.settings.base_models_folder / BASE / "loramill.json").unlink()
    assert report(client, file_id).status_code == 503
