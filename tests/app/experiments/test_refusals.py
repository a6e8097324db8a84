"""What no experiment is made of: refused before anything is queued, by the arm and the field."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, LOCAL, ApiHarness, upload
from tests.app.experiments.conftest import Post, rows


@pytest.fixture(autouse=True)
def nothing_is_made(client: TestClient, training_id: str, harness: ApiHarness) -> Any:
    """See that a refusal leaves neither jobs nor experiments, and no part of a file."""
    yield
    assert client.get("/v1/experiments").json()["data"] == []
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert harness.notifier.notified == []
    assert not [file for file in client.get("/v1/files").json()["data"] if ".train." in file["filename"]]


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"arms": [{}, {"lora": {"rank": 0}}]}, "arms[1].lora.rank", "lora.rank = 0: "),
        ({"arms": [{}, {"name": "deep", "lora": {"rank": 3000}}]}, "arms[1].lora.rank", "deep: "),
        ({"arms": [{}, {"no_such_field": 1}]}, "arms[1].no_such_field", "not supported"),
        ({"arms": [{}, {"max_length": 100_000}]}, "arms[1].max_length", "the context of tiny holds 512 tokens"),
        ({"arms": [{"training_file": "file-1"}]}, "arms[0].training_file", "same rows"),
        ({"arms": [{"model": "other"}]}, "arms[0].model", "one base model"),
        ({"arms": [{}, {"lora": {"target_modules": ["nothing"]}}]}, "arms[1].lora.target_modules", "nothing"),
        ({"grid": {"hyperparameters.n_epochs": [1, 999]}}, "grid.hyperparameters.n_epochs", "n_epochs = 999"),
        ({"weights": [0, 2]}, "weights.1", "less than or equal to 1"),
        ({"primary_metric": "bleu"}, "primary_metric", "is no metric"),
        ({"primary_metric": "length_ratio"}, "primary_metric", "describes"),
        ({"metrics": ["json_field_f1"]}, "metrics", "no answer is JSON"),
        ({"seeds": 0}, "seeds", "from 1 to 20"),
        ({"seeds": [1, 1]}, "seeds", "stands twice"),
        ({"job": {"seed": 1}}, "job.seed", "the experiment's"),
        ({"job": {"metadata": {"arm": "x"}}}, "job.metadata", "arm is what tells"),
        ({"job": {"lora": {"target_modules": ["nothing"]}}}, "job.lora.target_modules", "nothing"),
        ({"judge": "file-none"}, "judge", "no such file"),
        ({"margin": 0}, "margin", "greater than 0"),
    ],
)
def test_a_wrong_field_is_named(post: Post, fields: dict[str, Any], param: str, part: str) -> None:
    answer = post("/estimates", **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert post(**fields).status_code == 400


def test_a_model_that_is_not_trained_here_is_not_found(post: Post) -> None:
    assert post(job={"model": "other"}).status_code == 404


def test_rows_to_be_judged_by_that_are_trained_on_are_refused_with_their_lines(client: TestClient, post: Post) -> None:
    judge = upload(client, rows(398, 500)).json()["id"]
    error = post(judge=judge).json()["error"]
    assert error["param"] == "judge"
    assert "its lines 1 (line 399 of the training file" in error["message"]
    error = post(job={"validation_file": judge}).json()["error"]
    assert error["param"] == "job.validation_file"


def test_fewer_than_two_rows_to_be_judged_by_are_refused(client: TestClient, post: Post) -> None:
    one = upload(client, rows(1000, 1001)).json()["id"]
    assert "has 1 rows" in post(judge=one).json()["error"]["message"]
    few = upload(client, rows(0, 9)).json()["id"]
    error = post(job={"training_file": few}).json()["error"]
    assert (error["param"], "has 1 rows" in error["message"]) == ("judge", True)


def test_a_budget_that_one_seed_would_exceed_is_refused(post: Post, judge_id: str) -> None:
    error = post(judge=judge_id, budget_s=1).json()["error"]
    assert error["param"] == "budget_s"
    assert "one seed of all arms" in error["message"]


def test_a_base_model_that_no_engine_answers_for_is_refused(harness: ApiHarness, training_id: str) -> None:
    harness.settings = harness.settings.model_copy(update={"engine_urls": {}})
    body = {"job": {"model": BASE, "training_file": training_id}, "question": "labels"}
    with TestClient(harness.app(), base_url=LOCAL) as client:
        answer = client.post("/v1/experiments", json=body)
    assert answer.status_code == 400
    assert "no engine answers for tiny" in answer.json()["error"]["message"]
