"""What a request for an evaluation is refused for before anything is queued."""

import json
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from tests.app.conftest import BASE, LOCAL, ApiHarness, upload
from tests.app.evaluations.asking import TUNED, ask, refusal, train


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "file", "give either"),
        ({"file": "FILE", "job": "ftjob-x"}, "file", "give either"),
        ({"file": "file-none"}, "file", "no such file"),
        ({"file": "FILE", "models": []}, "models", "at least 1"),
        ({"file": "FILE", "models": ["other"]}, "models[0]", "no such model"),
        ({"file": "FILE", "models": [BASE, BASE]}, "models[1]", "named twice"),
        ({"file": "FILE", "metrics": ["exact"]}, "metrics[0]", "there is no metric exact"),
        ({"file": "FILE", "metrics": ["chrf", "chrf"]}, "metrics[1]", "named twice"),
        ({"file": "FILE", "metrics": ["label_accuracy"]}, "metrics[0]", "no labels"),
        ({"file": "FILE", "metrics": ["json_field_f1"]}, "metrics[0]", "no answer is JSON"),
        ({"file": "FILE", "normalization": "json", "metrics": ["exact_match"]}, "metrics[0]", "no answer is JSON"),
        ({"file": "FILE", "normalization": "lower"}, "normalization", "should be"),
        ({"file": "FILE", "max_rows": 1}, "max_rows", "greater than or equal to 2"),
        ({"file": "FILE", "max_length": 100_000}, "max_length", "context"),
        ({"file": "FILE", "gate": ["exact_match > 1"]}, "gate[0]", "character 13"),
        ({"file": "FILE", "gate": ["rouge_l >= 0.5"]}, "gate[0]", "not among the metrics"),
        ({"file": "FILE", "gate": ["better than ft:x"]}, "gate[0]", "not among the models"),
        ({"file": "FILE", "gate": [f"better than {BASE}"]}, "gate[0]", "only model"),
        ({"file": "FILE", "metrics": ["length_ratio"], "gate": ["exact_match >= 1"]}, "gate", "which way is better"),
        ({"file": "FILE", "sampling": {"temperature": 3}}, "sampling.temperature", "less than or equal to 2"),
        ({"file": "FILE", "sampling": {"n": 2}}, "sampling.n", "not supported"),
        ({"file": "FILE", "memory": True}, "memory", "name the base model and an adapter"),
        ({"file": "FILE", "threshold": 1}, "threshold", "not supported"),
    ],
)
def test_is_refused_by_name_and_nothing_is_queued(
    client: TestClient, file_id: str, fields: dict[str, Any], param: str, words: str
) -> None:
    fields = {name: file_id if value == "FILE" else value for name, value in fields.items()}
    status, named, message = refusal(client, **fields)
    assert (status, named) == (400, param)
    assert words in message


class TestRefused:
    def test_is_a_file_with_wrong_lines(self, client: TestClient) -> None:
        file_id = upload(client, b'{"prompt": "p", "completion": "c"}\n{"prompt": "q"}\n').json()["id"]
        status, param, message = refusal(client, file=file_id)
        assert (status, param) == (400, "file")
        assert "cannot be evaluated on" in message
        assert "line 2" in message

    @pytest.mark.parametrize("rows", [1, 2])
    def test_are_fewer_than_two_rows(self, client: TestClient, rows: int) -> None:
        lines = [{"prompt": "p" * (1 + 500 * n), "completion": "c"} for n in range(rows)]
        file_id = upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode()).json()["id"]
        status, param, message = refusal(client, file=file_id, max_length=100)
        assert (status, param) == (400, "file")
        assert "at least two rows" in message

    def test_are_rows_that_a_model_was_trained_on(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        train(harness, file_id)
        status, param, message = refusal(client, file=file_id, models=[BASE, TUNED])
        assert (status, param) == (400, "file")
        assert f"{TUNED} was trained on the prompts of line " in message
        assert "and 70 more" in message
        assert ask(client, file=file_id, models=[BASE]).status_code == 200

    def test_are_rows_that_an_earlier_adapter_of_a_model_was_trained_on(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        train(harness, file_id)
        later = upload(client, b'{"prompt": "z1", "completion": "a"}\n{"prompt": "z2", "completion": "b"}\n').json()
        earlier = {"name": TUNED, "adapter_sha256": "b" * 64}
        train(harness, later["id"], name="ft:later", digest="c" * 64, continue_from=earlier)
        _, _, message = refusal(client, file=file_id, models=["ft:later"])
        assert "ft:later was trained on the prompts of line " in message

    def test_is_a_base_model_that_vllm_serves(self, harness: ApiHarness, file_id_of: str) -> None:
        urls = {"engine_urls": {}, "vllm_urls": {BASE: "http://127.0.0.1:1"}}
        harness.settings = harness.settings.model_copy(update=urls)
        with TestClient(harness.app(), base_url=LOCAL) as client:
            status, param, message = refusal(client, file=file_id_of)
        assert (status, param) == (400, "models")
        assert "served by vLLM" in message

    def test_is_a_base_model_without_an_engine(self, harness: ApiHarness, file_id_of: str) -> None:
        harness.settings = harness.settings.model_copy(update={"engine_urls": {}})
        with TestClient(harness.app(), base_url=LOCAL) as client:
            assert "no engine answers for tiny" in refusal(client, file=file_id_of)[2]

    def test_is_a_model_of_another_base_model(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        train(harness, file_id)
        with harness.database.write() as session:
            session.execute(text("UPDATE adapters SET base_model = 'second'"))
        harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "second")})
        with TestClient(harness.app(), base_url=LOCAL) as second:
            status, param, message = refusal(second, file=file_id, models=[BASE, TUNED])
        assert (status, param) == (400, "models[1]")
        assert "compare models of one base model" in message

    @pytest.fixture
    def file_id_of(self, client: TestClient) -> str:
        return str(upload(client).json()["id"])
