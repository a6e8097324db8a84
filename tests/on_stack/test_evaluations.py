"""Evaluations as one user sees them: real processes, and processes that are killed while rows are scored."""

import csv
import io
import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import text

from core.jobs.status import TERMINAL
from core.settings import Settings
from core.store.db import Database
from tests.harness.models.tiny_models import VOCAB_ROWS
from tests.harness.servers.stack import TINY, VICTIMS, Stack, eventually, upload, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 300
METRICS = ["exact_match", "nats_per_token", "token_accuracy", "stop_rate"]


@pytest.fixture(scope="module")
def model(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the name of a model that was trained on rows of which an evaluation asks none."""
    job = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=upload(client, write_examples(tmp_path_factory.mktemp("data") / "train.jsonl")),
        hyperparameters={"n_epochs": 4, "batch_size": 4},
        seed=7,
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in TERMINAL, "the end of the training", 300)
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert ended.fine_tuned_model is not None, ended.error
    return ended.fine_tuned_model


@pytest.fixture(scope="module")
def judge_file(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "judge.jsonl"
    lines = [{"prompt": f"Urteil {n}: ", "completion": ("ja", "nein", "doch")[n % 3]} for n in range(ROWS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return upload(client, path)


def post(stack: Stack, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = stack.post(path, body)
    assert status == 200, answer
    told: dict[str, Any] = json.loads(answer)
    return told


def get(stack: Stack, path: str) -> dict[str, Any]:
    status, answer = stack.get(path)
    assert status == 200, answer
    told: dict[str, Any] = json.loads(answer)
    return told


def begin(stack: Stack, judge_file: str, model: str) -> str:
    body = {"file": judge_file, "models": [TINY, model], "metrics": METRICS, "sampling": {"max_tokens": 12}}
    return str(post(stack, "/v1/evaluations", body)["id"])


def answers(stack: Stack, evaluation: str) -> int:
    return int((get(stack, f"/v1/evaluations/{evaluation}")["progress"] or {}).get("answers", 0))


def wait_for_end(stack: Stack, evaluation: str) -> dict[str, Any]:
    def ended() -> bool:
        return get(stack, f"/v1/evaluations/{evaluation}")["status"] in TERMINAL

    eventually(ended, f"the end of {evaluation}", 300)
    return get(stack, f"/v1/evaluations/{evaluation}")


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, judge_file: str, model: str) -> dict[str, Any]:
    return wait_for_end(stack, begin(stack, judge_file, model))


def test_base_and_adapter_are_compared_by_every_metric(
    stack: Stack, client: OpenAI, undisturbed: dict[str, Any]
) -> None:
    assert (undisturbed["status"], undisturbed["error"]) == ("succeeded", None)
    result = undisturbed["result"]
    assert {verdict["comparison"]["metric"]: verdict["word"] for verdict in result["verdicts"]} == dict.fromkeys(
        METRICS, "better"
    )
    nats = {verdict["comparison"]["metric"]: verdict for verdict in result["verdicts"]}["nats_per_token"]
    assert (nats["comparison"]["rows"], nats["comparison"]["left_out"]) == (ROWS, 0)
    # the random base model is worse than chance over bytes, and the adapter knows which few bytes come
    assert nats["comparison"]["their_mean"] > log(256) > log(8) > nats["comparison"]["our_mean"]
    [file_id] = undisturbed["result_files"]
    lines = list(csv.DictReader(io.StringIO(client.files.content(file_id).text)))
    assert len(lines) == 2 * ROWS
    ours = [(float(line["nats_per_token"]), int(line["tokens"])) for line in lines if line["model"] != TINY]
    mean = sum(score * tokens for score, tokens in ours) / sum(tokens for _, tokens in ours)
    assert nats["comparison"]["our_mean"] == pytest.approx(mean)
    page = get(stack, f"/v1/evaluations/{undisturbed['id']}/rows?limit=3&sort=nats_per_token&order=desc")
    scores = [row["answers"][1]["scores"]["nats_per_token"] for row in page["data"]]
    assert scores == sorted(scores, reverse=True)
    assert max(float(line["nats_per_token"]) for line in lines if line["model"] != TINY) == scores[0]


@pytest.mark.parametrize("victim", ["worker", "engine", "api"])
def test_an_evaluation_outlives_a_killed_process_with_each_row_scored_once(
    stack: Stack, judge_file: str, model: str, undisturbed: dict[str, Any], victim: str
) -> None:
    evaluation = begin(stack, judge_file, model)
    eventually(lambda: answers(stack, evaluation) > 0, "a first answer")
    processes = stack.processes(*VICTIMS[victim])
    assert processes
    assert answers(stack, evaluation) < 2 * ROWS
    for process in processes:
        process.kill()
    eventually(stack.is_ready, "readiness after the kill")

    ended = wait_for_end(stack, evaluation)

    assert ended["status"] == "succeeded", ended["error"]
    assert scored_rows(stack, evaluation) == 2 * ROWS
    events = get(stack, f"/v1/evaluations/{evaluation}/events?limit=100")["data"]
    assert sum("successfully completed" in event["message"] for event in events) == 1
    assert nats_of(ended) == pytest.approx(nats_of(undisturbed), rel=1e-6)  # sums differ by which rows share a batch


def nats_of(evaluation: dict[str, Any]) -> list[float]:
    """Give mean and interval of nats per token, model by model."""
    scores = [model["scores"][METRICS.index("nats_per_token")] for model in evaluation["result"]["models"]]
    return [value for score in scores for value in (score["mean"], *score["interval"].values())]


def scored_rows(stack: Stack, evaluation: str) -> int:
    database = Database(Settings(home=stack.home).database)
    with database.read() as session:
        count = session.scalar(
            text("SELECT count(*) FROM evaluation_rows WHERE job_id = :id AND row < :rows"),
            {"id": evaluation, "rows": ROWS},
        )
    database.dispose()
    return int(count or 0)


def test_an_evaluation_does_not_wait_for_a_training(
    stack: Stack, client: OpenAI, judge_file: str, tmp_path: Path
) -> None:
    training_file = upload(client, write_examples(tmp_path / "long.jsonl"))
    training = client.fine_tuning.jobs.create(
        model=TINY, training_file=training_file, hyperparameters={"n_epochs": 50, "batch_size": 4}
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(training.id).status == "running", "the training's begin")
    body = {"file": judge_file, "models": [TINY], "metrics": ["nats_per_token"], "max_rows": 20}
    evaluation = post(stack, "/v1/evaluations", body)["id"]
    assert wait_for_end(stack, evaluation)["status"] == "succeeded"
    assert client.fine_tuning.jobs.retrieve(training.id).status == "running"
    client.fine_tuning.jobs.cancel(training.id)


def test_a_training_is_scored_on_its_way_and_what_it_publishes_is_evaluated(
    stack: Stack, client: OpenAI, judge_file: str, tmp_path: Path
) -> None:
    metrics = ["chrf", "nats_per_token", "token_accuracy"]
    job_id = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=upload(client, write_examples(tmp_path / "train.jsonl")),
        validation_file=judge_file,
        hyperparameters={"n_epochs": 6, "batch_size": 4},
        seed=7,
        extra_body={"evaluation": {"metrics": metrics, "max_rows": ROWS}, "load_best_model_at_end": "token_accuracy"},
    ).id
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).status in TERMINAL, "the end of the training", 300)
    job = get(stack, f"/v1/fine_tuning/jobs/{job_id}")
    assert (job["status"], job["error"]) == ("succeeded", None)

    names = [f"eval_{name}" for name in metrics]
    events = client.fine_tuning.jobs.list_events(job_id, limit=100).data
    told = [event.data for event in events if isinstance(event.data, dict) and "full_valid_loss" in event.data]
    on_the_way = {data["step"]: [data[name] for name in names] for data in told}
    checkpoints = get(stack, f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    assert {each["step_number"]: [each["metrics"][name] for name in names] for each in checkpoints} == {
        step: scores for step, scores in on_the_way.items() if step
    }
    rows = csv.DictReader(io.StringIO(client.files.content(job["result_files"][0]).text))
    in_file = {int(row["step"]): [row[name] for name in names] for row in rows}
    assert {step: list(map(float, scores)) for step, scores in in_file.items() if any(scores)} == on_the_way
    published = job["adapter_step"]
    assert on_the_way[published][2] == max(scores[2] for step, scores in on_the_way.items() if step)

    ended = wait_for_end(stack, job["evaluation_id"])
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert (ended["job"], ended["rows"], ended["metrics"]) == (job_id, ROWS, metrics)
    assert ended["models"] == [TINY, job["fine_tuned_model"]]
    # The engine says of the same rows what the trainer said, before the first step and of what it published, but for
    # the ids that no token has, of which this base model holds many: an engine gives them no probability.
    by_engine = [[score["mean"] for score in model["scores"][1:]] for model in ended["result"]["models"]]
    for (nats, accuracy), (_, trained_nats, trained_accuracy) in zip(
        by_engine, (on_the_way[0], on_the_way[published]), strict=True
    ):
        assert accuracy == pytest.approx(trained_accuracy)
        assert 0 < trained_nats - nats < log(VOCAB_ROWS / 256)
    assert {verdict["word"] for verdict in ended["result"]["verdicts"]} == {"better"}
