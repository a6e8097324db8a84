"""Experiments as one user sees them: real processes, among them killed ones, and a report at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from core.settings import Settings
from core.store.db import Database
from tests.harness.servers.stack import TINY, VICTIMS, Stack, eventually, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

JUDGED = 120
ANSWERS = ("ja", "nein", "doch")


@pytest.fixture(scope="module")
def body(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An experiment of two arms that are wholly identical and one that is not, on rows that can be learnt."""
    folder = tmp_path_factory.mktemp("data")
    with stack.client() as client:
        train, judge = (upload(client, write_rows(folder / f"{name}.jsonl", *rows)) for name, rows in ROWS.items())
    return {
        "job": {"model": TINY, "training_file": train, "hyperparameters": {"n_epochs": 4, "batch_size": 4}},
        "judge": judge,
        "arms": [{"name": "one"}, {"name": "the same"}, {"name": "full", "prompt_loss_weight": 1}],
        "seeds": 2,
        "metrics": ["exact_match", "stop_rate"],
        "sampling": {"max_tokens": 12},
    }


ROWS = {"train": (0, 60), "judge": (1000, 1000 + JUDGED)}


def write_rows(path: Path, first: int, last: int) -> Path:
    lines = [{"prompt": f"Urteil {n}: ", "completion": ANSWERS[n % 3]} for n in range(first, last)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def told(answer: tuple[int, bytes]) -> dict[str, Any]:
    status, content = answer
    assert status == 200, content
    found: dict[str, Any] = json.loads(content)
    return found


def get(stack: Stack, experiment: str, what: str = "") -> dict[str, Any]:
    return told(stack.get(f"/v1/experiments/{experiment}{what}"))


def wait_for_end(stack: Stack, experiment: str, within_s: float = 600) -> dict[str, Any]:
    def has_ended() -> bool:
        return stack.is_ready() and get(stack, experiment)["status"] != "running"

    eventually(has_ended, f"the end of {experiment}", within_s)
    return get(stack, experiment)


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, body: dict[str, Any]) -> dict[str, Any]:
    experiment = told(stack.post("/v1/experiments", body))["id"]
    ended = wait_for_end(stack, experiment)
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    return get(stack, experiment, "/report")


def test_identical_arms_differ_by_exactly_0_and_any_is_better_than_the_base_model(undisturbed: dict[str, Any]) -> None:
    for metric in undisturbed["equal_rates"]["metrics"]:
        differences = {one["ours"]: one["difference"] for one in metric["comparisons"]}
        assert differences["the same"] == 0
    words = {one["comparison"]["ours"]: one["word"] for one in undisturbed["equal_rates"]["verdicts"]}
    assert (words["the same"], words["base"]) == ("undecided", "worse")
    curves = {(curve["arm"], curve["seed"]): (curve["steps"], curve["loss"]) for curve in undisturbed["curves"]}
    assert len(curves) == 6
    for seed in (1, 2):
        assert curves["one", seed] == curves["the same", seed]
        assert len(curves["full", seed][0]) == 4
        assert curves["full", seed] != curves["one", seed]
    assert curves["one", 1] != curves["one", 2]


@pytest.mark.parametrize("stage", ["training", "judging"])
def test_whoever_is_killed_it_ends_once_and_comes_to_the_same(
    stack: Stack, body: dict[str, Any], undisturbed: dict[str, Any], stage: str
) -> None:
    experiment = told(stack.post("/v1/experiments", body))["id"]
    for victim in ("worker", "api", "trainer" if stage == "training" else "engine"):
        eventually(lambda: stack.is_ready() and get(stack, experiment)["stage"] in (stage, None), f"its {stage}", 600)
        for process in stack.processes(*VICTIMS[victim]):
            process.kill()
    ended = wait_for_end(stack, experiment)
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert len(ended["runs"]) == 6
    assert count(stack, "jobs JOIN job_metadata ON id = job_id", experiment) == 7  # with the evaluation
    assert_same(get(stack, experiment, "/report"), undisturbed)


def test_its_rerun_gives_the_same(stack: Stack, undisturbed: dict[str, Any]) -> None:
    again = told(stack.post("/v1/experiments", undisturbed["rerun"]))["id"]
    assert wait_for_end(stack, again)["status"] == "succeeded"
    assert_same(get(stack, again, "/report"), undisturbed)


def assert_same(report: dict[str, Any], expected: dict[str, Any]) -> None:
    """Hold a report against another: trainings to the bit, scores up to how an engine rounds that answers many."""
    assert report["curves"] == expected["curves"]
    assert [one["word"] for one in report["equal_rates"]["verdicts"]] == [
        one["word"] for one in expected["equal_rates"]["verdicts"]
    ]
    for ours, theirs in zip(report["equal_rates"]["metrics"], expected["equal_rates"]["metrics"], strict=True):
        assert [arm["mean"]["mean"] for arm in ours["arms"]] == pytest.approx(
            [arm["mean"]["mean"] for arm in theirs["arms"]], abs=1e-6
        )


def count(stack: Stack, jobs: str, experiment: str) -> int:
    database = Database(Settings(home=stack.home).database)
    with database.read() as session:
        where = "key = 'experiment' AND value = :id"
        found = session.scalar(text(f"SELECT count(*) FROM {jobs} WHERE {where}"), {"id": experiment})
    database.dispose()
    return int(found or 0)
