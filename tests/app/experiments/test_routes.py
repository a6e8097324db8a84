"""Experiments over HTTP: what a request becomes, and what came of it."""

import csv
import io
from typing import Any
from xml.etree import ElementTree

import pytest
from starlette.testclient import TestClient

from core.store.experiments.advancing import advance
from core.text.held_out import draw
from tests.app.conftest import BASE, LEARNING_RATE, ApiHarness, upload
from tests.app.experiments.conftest import Post, rows
from tests.core.store.experiments.experimenting import end_evaluation, end_runs


def judged(harness: ApiHarness, experiment_id: str) -> None:
    """Have all runs end, then the evaluation; w = 1 is worse by half a nat, the base model by one."""
    end_runs(harness.database)
    advance(harness.database, experiment_id, 400)
    worse: set[str] = set()

    def score(model: str, row: int) -> float:
        return row % 7 / 10 + (1.0 if model == BASE else 0.5 if model in worse else 0.0)

    with TestClient(harness.app(), base_url="http://127.0.0.1:8000") as client:
        runs = client.get(f"/v1/experiments/{experiment_id}").json()["runs"]
    worse |= {run["model"] for run in runs if run["arm"] == "w = 1"}
    end_evaluation(harness.database, score)
    advance(harness.database, experiment_id, 500)


def test_the_question_of_labels_becomes_a_job_for_each_weight_and_seed(
    client: TestClient, harness: ApiHarness, post: Post, judge_id: str
) -> None:
    created = post(judge=judge_id, seeds=2).json()
    assert created["object"] == "experiment"
    assert (created["status"], created["stage"], created["runs_ended"]) == ("running", "training", 0)
    assert [(arm["name"], arm["prompt_loss_weight"]) for arm in created["arms"]] == [
        ("w = 0", 0.0), ("w = 0.1", 0.1), ("w = 1", 1.0),
    ]  # fmt: skip
    assert [(run["arm"], run["seed"]) for run in created["runs"]] == [
        (arm, seed) for seed in (1, 2) for arm in ("w = 0", "w = 0.1", "w = 1")
    ]
    assert {run["learning_rate"] for run in created["runs"]} == {LEARNING_RATE}
    assert created["rows"] == {"train": 400, "choose": None, "judge": 120}
    assert harness.notifier.notified == [run["job"] for run in created["runs"]]
    assert client.get(f"/v1/experiments/{created['id']}").json() == created
    assert client.get("/v1/experiments").json()["data"] == [created]
    jobs = [client.get(f"/v1/fine_tuning/jobs/{run['job']}").json() for run in created["runs"]]
    assert {job["validation_file"] for job in jobs} == {judge_id}
    assert len({(job["training_file"], job["hyperparameters"]["batch_size"]) for job in jobs}) == 1
    assert jobs[0]["metadata"] == {"experiment": created["id"], "arm": "w = 0", "seed": "1"}


def test_seeds_may_be_named_as_any_whole_numbers(post: Post, judge_id: str) -> None:
    assert post(judge=judge_id, seeds=[7, 5.0]).json()["seeds"] == [7, 5]


@pytest.mark.parametrize(("seeds", "param"), [("two", "seeds"), ([1, "two"], "seeds.1"), ([[1]], "seeds.0")])
def test_a_field_of_several_types_is_refused_by_its_place_in_the_request(
    post: Post, judge_id: str, seeds: Any, param: str
) -> None:
    refused = post(judge=judge_id, seeds=seeds)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_the_manifest_of_a_run_names_its_place_and_what_the_experiment_chose(client: TestClient, post: Post) -> None:
    created = post(tune="learning_rate", seeds=2).json()
    run = next(run for run in created["runs"] if run["arm"] == "w = 1" and run["learning_rate"] > LEARNING_RATE)
    manifest = client.get(f"/v1/fine_tuning/jobs/{run['job']}/manifest").json()
    place = {"id": created["id"], "arm": "w = 1", "seed": 1, "rate_factor": 3.0}
    assert manifest["parents"]["experiment"] == place
    rate, weight = manifest["settings"]["learning_rate"], manifest["settings"]["prompt_loss_weight"]
    assert (rate["value"], rate["origin"]) == (run["learning_rate"], "auto")
    assert created["id"] in rate["why"]
    assert (manifest["settings"]["seed"]["origin"], weight["origin"]) == ("auto", "you")


def test_without_a_file_to_be_judged_by_it_is_the_tenth_that_any_job_holds_out(client: TestClient, post: Post) -> None:
    created = post().json()
    assert created["rows"] == {"train": 360, "choose": None, "judge": 40}
    assert "too few for a verdict" in created["detectable"]["text"]
    job = client.get(f"/v1/fine_tuning/jobs/{created['runs'][0]['job']}").json()
    held_out = client.get(f"/v1/files/{job['validation_file']}/content").text.splitlines()
    assert sorted(held_out) == sorted(
        f'{{"prompt":"p{n}","completion":" c{n}"}}' for n in range(400) if _is_held_out(n)
    )
    trained = client.get(f"/v1/files/{job['training_file']}/content").text.splitlines()
    assert not set(trained) & set(held_out)
    assert len(trained) == 360


def _is_held_out(number: int) -> bool:
    from core.text.held_out import hash_of

    return hash_of(f"p{number}") in draw(f"p{n}" for n in range(400))


def test_what_chooses_has_rows_of_its_own(client: TestClient, post: Post, judge_id: str) -> None:
    tuned = post(tune="learning_rate").json()
    assert tuned["rows"] == {"train": 320, "choose": 40, "judge": 40}
    assert len(tuned["runs"]) == 9
    rates = [run["learning_rate"] for run in tuned["runs"] if run["arm"] == "w = 0"]
    assert rates == pytest.approx([LEARNING_RATE * factor for factor in (1 / 3, 1, 3)])
    pruned = post(prune=True, judge=judge_id).json()
    assert pruned["rows"] == {"train": 360, "choose": 40, "judge": 120}
    stopping = post(job={"early_stopping_patience": 1}).json()
    assert stopping["rows"]["choose"] == 40


def test_a_validation_file_is_what_is_judged_by_unless_another_is_named(
    client: TestClient, post: Post, judge_id: str, file_id: str
) -> None:
    assert post(job={"validation_file": judge_id}).json()["rows"] == {"train": 400, "choose": None, "judge": 120}


def test_an_estimate_says_the_same_and_makes_nothing(client: TestClient, harness: ApiHarness, post: Post) -> None:
    files = client.get("/v1/files").json()["data"]
    estimate = post("/estimates", tune="learning_rate").json()
    assert estimate["object"] == "experiment.estimate"
    assert estimate["estimate"]["runs"] == 9 + 2 * 3 * 2
    assert estimate["estimate"]["queue"]["place"] == 1
    assert (estimate["estimate"]["judged_models"], estimate["estimate"]["judged_rows"]) == (3 * 3 * 2 + 1, 40)
    assert client.get("/v1/files").json()["data"] == files
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert client.get("/v1/experiments").json()["data"] == []
    created = post(tune="learning_rate").json()
    assert {name: created[name] for name in ("arms", "rows", "detectable")} == {
        name: estimate[name] for name in ("arms", "rows", "detectable")
    }


def test_a_report_says_what_came_of_it(client: TestClient, harness: ApiHarness, post: Post, judge_id: str) -> None:
    created = post(judge=judge_id, seeds=3).json()
    early = client.get(f"/v1/experiments/{created['id']}/report")
    assert early.status_code == 409
    assert early.json()["error"]["code"] == "report_not_ready"
    judged(harness, created["id"])
    ended = client.get(f"/v1/experiments/{created['id']}").json()
    assert (ended["status"], ended["stage"], ended["runs_ended"]) == ("succeeded", None, 9)
    report = client.get(f"/v1/experiments/{created['id']}/report").json()
    assert [verdict["word"] for verdict in report["equal_rates"]["verdicts"]] == ["undecided", "worse", "worse"]
    assert "w = 1 is worse than w = 0 on nats_per_token" in report["equal_rates"]["paragraph"]
    assert (report["too_few"], report["tuned"]) == (False, None)
    assert report["rerun"]["seeds"] == [1, 2, 3]
    again = client.post("/v1/experiments", json=report["rerun"]).json()
    assert again["arms"] == created["arms"]


def test_a_report_is_also_numbers_and_a_picture(
    client: TestClient, harness: ApiHarness, post: Post, judge_id: str
) -> None:
    created = post(judge=judge_id, seeds=2).json()
    judged(harness, created["id"])
    path = f"/v1/experiments/{created['id']}"
    summary = client.get(f"{path}/report.csv")
    assert summary.headers["content-type"] == "text/csv; charset=utf-8"
    assert {row["arm"] for row in csv.DictReader(io.StringIO(summary.text))} == {"w = 0", "w = 0.1", "w = 1", "base"}
    scores = list(csv.DictReader(io.StringIO(client.get(f"{path}/scores.csv").text)))
    assert len(scores) == 7 * 120 * len(created["metrics"]) + 7 * 120
    for theme in ("light", "dark"):
        picture = client.get(f"{path}/report.svg", params={"theme": theme})
        assert picture.headers["content-type"] == "image/svg+xml"
        ElementTree.fromstring(picture.text)
    for wrong in ({"metric": "rouge_l"}, {"rates": "tuned"}):
        assert client.get(f"{path}/report.svg", params=wrong).status_code == 400


def test_rows_that_an_arm_goes_on_from_are_not_judged_by(
    client: TestClient, harness: ApiHarness, post: Post, judge_id: str
) -> None:
    job = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": judge_id}).json()["id"]
    end_runs(harness.database)
    model = client.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"]
    error = post(judge=judge_id, arms=[{}, {"continue_from": model}]).json()["error"]
    assert error["param"] == "judge"
    assert f"{model} was trained on the prompts of line" in error["message"]


def test_what_it_could_show_goes_by_different_prompts(client: TestClient, post: Post) -> None:
    repeated = upload(client, rows(1000, 1050) * 4).json()["id"]
    created = post("/estimates", judge=repeated).json()
    assert created["rows"]["judge"] == 200
    assert created["detectable"]["rows"] == 50
    assert "too few for a verdict" in created["detectable"]["text"]


def test_rows_that_are_too_long_to_be_judged_by_are_counted(client: TestClient, post: Post) -> None:
    long = b'{"prompt": "%s", "completion": " c"}\n' % (b"x" * 600)
    judge = upload(client, rows(1000, 1120) + long).json()["id"]
    created = post("/estimates", judge=judge).json()
    assert created["rows"]["judge"] == 120
    [note] = created["notes"]
    assert note.startswith("1 rows to be judged by are left out")


def test_answers_that_were_drawn_can_be_drawn_again(
    client: TestClient, harness: ApiHarness, post: Post, judge_id: str
) -> None:
    created = post(judge=judge_id, seeds=2, sampling={"temperature": 1.0, "top_p": 0.5}).json()
    judged(harness, created["id"])
    path = f"/v1/experiments/{created['id']}"
    evaluation = client.get(f"/v1/evaluations/{client.get(path).json()['judging_evaluation']}").json()
    assert client.get(f"{path}/report").json()["rerun"]["sampling"] == {
        "temperature": 1.0,
        "top_p": 0.5,
        "seed": evaluation["sampling"]["seed"],
    }


def test_a_broker_that_is_away_is_tried_once(harness: ApiHarness, client: TestClient, post: Post) -> None:
    harness.notifier.reaches = False
    created = post().json()
    assert harness.notifier.notified == [created["runs"][0]["job"]]


def test_cancelling_cancels_every_job_of_it(client: TestClient, post: Post, judge_id: str) -> None:
    created = post(judge=judge_id).json()
    cancelled = client.post(f"/v1/experiments/{created['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert {run["status"] for run in cancelled["runs"]} == {"cancelled"}
    report = client.get(f"/v1/experiments/{created['id']}/report")
    assert report.json()["error"]["message"].endswith("has no report: it was cancelled")


def test_the_same_key_gives_the_same_experiment_again(client: TestClient, post: Post) -> None:
    first = post(key="k").json()
    assert post(key="k").json() == first
    other = post(key="k", seeds=2)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert len(client.get("/v1/experiments").json()["data"]) == 1


def test_one_that_is_not_there_is_not_found(client: TestClient) -> None:
    for path in ("", "/report", "/report.csv", "/report.svg", "/scores.csv"):
        assert client.get(f"/v1/experiments/exp-1{path}").status_code == 404
    assert client.post("/v1/experiments/exp-1/cancel").status_code == 404
