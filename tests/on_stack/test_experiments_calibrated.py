"""Real trainings that differ in nothing but their seeds: verdicts must hardly ever tell them apart."""

import csv
import io
from pathlib import Path

import pytest

from core.scoring.registry import METRICS
from core.scoring.statistics.comparison import Arm, compare
from core.scoring.verdict import judge
from tests.harness.servers.stack import TINY, Stack, upload
from tests.on_stack.test_experiments import told, wait_for_end, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXPERIMENTS, SEEDS, OF_AN_ARM = 7, 18, 3  # so that there are 21 comparisons of three seeds with three others
# of 21: with 5 % each it would be more in 28 % of all trials, so the seeds are fixed, and looked at once
MOST_WRONG = 1
WITHIN_S = 1500  # for 18 trainings, also where others use the machine
METRIC = METRICS["nats_per_token"]


def test_of_twenty_comparisons_of_equal_trainings_at_most_one_finds_a_difference(stack: Stack, tmp_path: Path) -> None:
    with stack.client() as client:
        judged_by = upload(client, write_rows(tmp_path / "judge.jsonl", 1000, 1120))
        trained_on = upload(client, write_rows(tmp_path / "train.jsonl", 0, 40))
    words = [word for number in range(EXPERIMENTS) for word in compare_seeds(stack, trained_on, judged_by, number)]
    assert len(words) == EXPERIMENTS * SEEDS // (2 * OF_AN_ARM)
    assert sum(word != "undecided" for word in words) <= MOST_WRONG, words


def compare_seeds(stack: Stack, trained_on: str, judged_by: str, number: int) -> list[str]:
    """Train one arm with many seeds, and compare three of them with three others, as if they were two arms."""
    seeds = [100 * number + place for place in range(SEEDS)]
    body = {
        "job": {
            "model": TINY,
            "training_file": trained_on,
            "hyperparameters": {"n_epochs": 1, "batch_size": 8},
            "n_evals": 1,
        },
        "judge": judged_by,
        "arms": [{"name": "the only one"}],
        "seeds": seeds,
        "metrics": [],
    }
    experiment = told(stack.post("/v1/experiments", body))["id"]
    ended = wait_for_end(stack, experiment, WITHIN_S)
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    status, content = stack.get(f"/v1/experiments/{experiment}/scores.csv")
    assert status == 200
    by_seed: dict[str, list[float]] = {}
    for line in csv.DictReader(io.StringIO(content.decode())):
        by_seed.setdefault(line["seed"], []).append(float(line["score"]))
    groups = [[by_seed[str(seed)] for seed in seeds[begin : begin + OF_AN_ARM]] for begin in range(0, SEEDS, OF_AN_ARM)]
    rows = range(len(groups[0][0]))
    compared = [
        compare(METRIC, Arm(name="a", scores_SN=ours), Arm(name="b", scores_SN=theirs), rows)
        for ours, theirs in zip(groups[::2], groups[1::2], strict=True)
    ]
    return [judge([one])[0].word for one in compared]
