"""Previews over HTTP: what is shown, what is refused as a job would be, and when it is a page."""

import json
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from app.fine_tuning.preview_routes import prefers_html
from app.web.preview_page import HEADERS
from tests.app.conftest import BASE, COLUMNS, ApiHarness, upload

URL = "/v1/fine_tuning/preview"
QA = {"prompt": "Q:", "completion": " A"}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
FORMAT = {"prompt": "{{question}}", "completion": "{{answer}}"}
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def ask(client: TestClient, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return client.post(URL, json={"model": BASE} | fields, headers=headers)


def test_examples_are_shown_token_by_token(client: TestClient) -> None:
    body = ask(client, examples=[QA], prompt_loss_weight=0.5).json()
    (example,) = body["examples"]
    assert example["tokens"][1:3] == [
        {"id": 58, "text": ":", "start": 1, "end": 2, "weight": 0.5, "reason": "prompt"},
        {"id": 32, "text": " ", "start": 2, "end": 3, "weight": 1.0, "reason": "completion"},
    ]
    assert example | {"tokens": None} == {
        "line": 1,
        "text": "Q: A<|endoftext|>",
        "tokens": None,
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "trained_tokens": 4,
        "dropped": 0,
        "note": None,
    }
    assert body | {"examples": None} == {
        "object": "preview",
        "model": BASE,
        "examples": None,
        "totals": {
            "examples": 1,
            "left_out": 0,
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "trained_tokens": 4,
            "dropped": 0,
        },
        "has_more": False,
    }


def test_a_file_is_shown_in_pages(client: TestClient, file_id: str) -> None:
    first = ask(client, training_file=file_id).json()
    assert ([e["line"] for e in first["examples"]], first["has_more"]) == (list(range(1, 11)), True)
    rest = ask(client, training_file=file_id, after_line=97, limit=50).json()
    assert ([e["line"] for e in rest["examples"]], rest["has_more"]) == ([98, 99, 100], False)
    beyond = ask(client, training_file=file_id, after_line=100).json()
    assert (beyond["examples"], beyond["totals"]["examples"], beyond["has_more"]) == ([], 0, False)


def test_all_examples_written_out_are_shown(client: TestClient) -> None:
    body = ask(client, examples=[QA] * 40).json()
    assert (len(body["examples"]), body["examples"][-1]["line"]) == (40, 40)


def test_a_jobs_whole_body_can_be_posted(client: TestClient, file_id: str) -> None:
    fields: dict[str, Any] = {
        "training_file": file_id,
        "suffix": "mine",
        "seed": 1,
        "hyperparameters": {"n_epochs": 2},
        "lora": {"rank": 4},
        "metadata": {"k": "v"},
        "validation_file": file_id,
        "max_length": "auto",
        "over_length": "truncate_prompt",
    }
    assert ask(client, **fields).status_code == 200
    assert client.post("/v1/fine_tuning/jobs", json={"model": BASE} | fields).status_code == 200


def test_columns_and_conversations_are_shown_with_their_fields(client: TestClient) -> None:
    columns = upload(client, COLUMNS).json()["id"]
    shown = ask(client, training_file=columns, prompt_format=FORMAT).json()["examples"]
    assert [example["text"] for example in shown] == ["qa<|endoftext|>"] * 3
    last = ask(client, examples=[CHAT], train_on="last_assistant").json()["examples"][0]
    assert "<|im_start|>assistant\na<|im_end|>" in last["text"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "training_file", "either training_file or examples"),
        ({"training_file": "file-x", "examples": [QA]}, "training_file", "either training_file or examples"),
        ({"training_file": "file-x"}, "training_file", "no such file"),
        ({"examples": []}, "examples", ""),
        ({"examples": [QA] * 101}, "examples", ""),
        ({"examples": [QA], "limit": 0}, "limit", ""),
        ({"examples": [QA], "limit": 101}, "limit", ""),
        ({"examples": [QA], "colour": 1}, "colour", ""),
        ({"examples": [QA], "max_length": 513}, "max_length", "holds 512 tokens"),
        ({"examples": [QA], "prompt_loss_weight": 1.5}, "prompt_loss_weight", ""),
        ({"examples": [QA], "prompt_format": FORMAT}, "prompt_format", "takes no prompt format"),
        ({"examples": [QA], "train_on": "last_assistant"}, "train_on", "last_assistant"),
        ({"examples": [{"question": "q"}]}, "prompt_format", "holds columns"),
        (
            {"examples": [{"question": "q", "answer": "a"}, {"question": "q"}], "prompt_format": FORMAT},
            "prompt_format.completion",
            'not every example has a column "answer"',
        ),
    ],
)
def test_what_a_job_would_be_refused_for_is_refused(
    client: TestClient, fields: dict[str, Any], param: str, words: str
) -> None:
    response = ask(client, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"prompt": "p"}, '"completion" is missing'),
        ({"prompt": "p", "completion": " "}, '"completion" is empty'),
        (7, "expected a JSON object, not a number"),
        ({"prompt": "p", "completion": "a\0b"}, "NUL"),
        (CHAT, 'its format is "messages", but the file began with "prompt_completion"'),
        ({"prompt": "p" * 600, "completion": "c"}, "line 4 has 602 tokens, but max_length is 512"),
    ],
)
def test_a_wrong_example_is_400_under_its_place(client: TestClient, wrong: Any, reason: str) -> None:
    response = ask(client, examples=[QA, QA, QA, wrong], over_length="error")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "examples[3]"
    assert reason in response.json()["error"]["message"]


def test_a_deep_or_long_example_is_refused_as_on_a_line(client: TestClient, harness: ApiHarness) -> None:
    deep = f'{{"model": "{BASE}", "examples": [{{"a": {"[" * 900}{"]" * 900}}}]}}'
    response = client.post(URL, content=deep, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "examples[0]")
    long = {"prompt": "p" * harness.settings.max_line_bytes, "completion": "c"}
    response = ask(client, examples=[QA, long])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "examples[1]")


def test_a_file_over_which_the_job_would_fail_is_400_with_its_line(client: TestClient) -> None:
    long = json.dumps({"prompt": "p" * 600, "completion": "c"}).encode()
    file_id = upload(client, b'{"prompt": "p", "completion": "c"}\n' + long).json()["id"]
    error = ask(client, training_file=file_id, over_length="error").json()["error"]
    assert (error["param"], "line 2 has 602 tokens" in error["message"]) == ("training_file", True)
    dropped = ask(client, training_file=file_id).json()["examples"][1]
    assert (dropped["dropped"], dropped["note"]) == (602, "dropped: 602 tokens, max_length is 512")


def test_a_file_with_problems_is_refused(client: TestClient) -> None:
    broken = upload(client, b"{broken\n").json()["id"]
    error = ask(client, training_file=broken).json()["error"]
    assert (error["param"], "line 1" in error["message"]) == ("training_file", True)


def test_an_unknown_base_model_is_404(client: TestClient) -> None:
    assert client.post(URL, json={"model": "phi-2", "examples": [QA]}).status_code == 404


def test_a_base_model_that_is_not_imported_is_503(client: TestClient, harness: ApiHarness) -> None:
    (harness.settings.base_models_folder / BASE / "loramill.json").unlink()
    assert ask(client, examples=[QA]).status_code == 503


class TestPage:
    def test_html_is_given_where_it_is_preferred(self, client: TestClient) -> None:
        response = ask(client, {"accept": BROWSER}, examples=[{"prompt": "<script>x</script>", "completion": "c"}])
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert response.headers["vary"] == "accept"
        assert "<script" not in response.text
        assert "18 prompt tokens are seen and not trained" in response.text

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "image/png"])
    def test_json_is_given_otherwise(self, client: TestClient, accept: str) -> None:
        response = ask(client, {"accept": accept}, examples=[QA])
        assert response.headers["content-type"] == "application/json"
        assert response.headers["vary"] == "accept"

    def test_errors_stay_json(self, client: TestClient) -> None:
        assert ask(client, {"accept": "text/html"}).json()["error"]["param"] == "training_file"

    @pytest.mark.parametrize(
        ("accept", "html"),
        [
            ("text/html", True),
            (BROWSER, True),
            ("text/*, application/json;q=0.5", True),
            ("TEXT/HTML; Q=0.9, application/json; q=0.8", True),
            ("*/*;q=0.5, text/html;q=0.6", True),
            ("", False),
            ("*/*", False),
            ("text/html, application/json", False),
            ("text/html;q=0", False),
            ("text/html;q=0.1, */*", False),
            ("text/html;q=lots", False),
        ],
    )
    def test_accept_is_read_with_its_weights(self, accept: str, html: bool) -> None:
        assert prefers_html(accept) is html
