"""The experiment on this project's data: which rows it takes, what is kept of it, and that the README says that."""

import json
from typing import Any

import pytest

from benchmarks.host.processes import ROOT
from benchmarks.label_experiment import (
    DATA_SETS,
    NOT_MEASURED,
    RESULT,
    ExperimentSize,
    bookings,
    keep,
    kept,
    paragraphs,
    split_by_prompt,
    table,
)
from tests.core.experiments.test_report import report as made_report

README = (ROOT / "README.md").read_text("utf-8")
RESULTS: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}


def shown() -> dict[str, Any]:
    """Give a report as the API tells it."""
    return made_report().model_dump(mode="json")


def test_the_readme_says_what_the_kept_experiments_came_to_or_that_there_are_none() -> None:
    if not RESULTS:
        assert NOT_MEASURED in README
        return
    assert NOT_MEASURED not in README
    for line in (*table(RESULTS), *paragraphs(RESULTS)):
        assert line in README.splitlines()


@pytest.mark.parametrize("name", RESULTS)
def test_a_kept_experiment_is_of_the_whole_size(name: str) -> None:
    result = RESULTS[name]
    assert ExperimentSize(**result["size"]) == ExperimentSize()
    assert result["different_rows"] == ExperimentSize().judge
    assert set(result["verdicts"]) == {"w = 0.1", "w = 1", "base"}


def test_the_bookings_are_the_examples_and_as_many_others_as_are_wanted() -> None:
    trained, judged = bookings(ExperimentSize(train=30, judge=100))
    examples = (ROOT / "examples" / "train.jsonl").read_text("utf-8").splitlines()
    assert trained == [json.loads(line) for line in examples[:30]]
    held_out = (ROOT / "examples" / "heldout.jsonl").read_text("utf-8").splitlines()
    assert judged[:60] == [json.loads(line) for line in held_out]
    assert len({row["prompt"] for row in judged}) == 100


def test_no_prompt_is_trained_on_and_judged_by() -> None:
    rows = [{"prompt": f"p{n % 40}", "completion": f"c{n}"} for n in range(130)]
    trained, judged = split_by_prompt(rows, ExperimentSize(train=50, judge=10))
    assert len({row["prompt"] for row in judged}) == len(judged) == 10
    assert not {row["prompt"] for row in judged} & {row["prompt"] for row in trained}
    assert len(trained) == 50
    assert len({row["prompt"] for row in trained[:30]}) == 30  # before any prompt comes again
    turned = split_by_prompt(rows[::-1], ExperimentSize(train=50, judge=10))[1]
    assert {row["prompt"] for row in turned} == {row["prompt"] for row in judged}


def test_what_is_kept_is_what_the_table_needs(tmp_path: Any) -> None:
    ended = {"model": "tiny", "created_at": 100, "finished_at": 700}
    result = kept(ended, shown(), ExperimentSize())
    out = tmp_path / "labels.json"
    keep(out, "e2e", result | {"size": None})
    keep(out, "e2e", result)
    keep(out, "bookings", result)
    read = json.loads(out.read_text("utf-8"))
    assert list(read) == ["e2e", "bookings"]
    assert read["e2e"]["took_s"] == 600
    header, _, first, *others = table(read)
    assert header.startswith("| data | trained | nats per answer token |")
    assert first.startswith("| e2e | w = 0 | 0.6")
    assert first.endswith(" | – |")
    assert [line.rpartition(" | ")[2] for line in others[:3]] == ["cannot be told apart |", "worse |", "worse |"]
    assert paragraphs(read)[1] == f"- bookings, {DATA_SETS['bookings'].about}: {result['paragraph']}"
