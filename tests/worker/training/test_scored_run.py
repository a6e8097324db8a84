"""A run that is scored by metrics on its way: the scores are of its own answers, and one can choose the result."""

import csv
from pathlib import Path
from typing import Any

import pytest

from core.errors import NothingToScore
from core.jobs.events import EventLevel
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from tests.worker.training.run_folders import Killed, RecordingReporter, kill_after, train, write_run
from worker.trainer_process.messages import CheckpointWritten, Evaluated, Finished, HeldOutAnswers, Note, StepDone
from worker.trainer_process.run_folder import ADAPTER, RESULTS
from worker.training import loop as loop_module

METRICS = ("exact_match", "chrf", "nats_per_token")
COLUMNS = [f"eval_{name}" for name in METRICS]
LINES = [{"prompt": f"{mark}:", "completion": f" {mark}{mark}"} for mark in "abcdefgh"]
# every answer is right some time before the loss is at its lowest
OVERFITTED: dict[str, Any] = {
    "n_epochs": 60,
    "batch_size": 8,
    "lora": {"rank": 16, "alpha": 32},
    "n_evals": 12,
    "evaluation": {"metrics": METRICS},
    "load_best_model_at_end": "exact_match",
}


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> None:
    """Answers are whole here."""


def scored_run(folder: Path, base: Path) -> Path:
    return write_run(folder, base, LINES, validation=LINES, **OVERFITTED)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return scored_run(tmp_path_factory.mktemp("scored") / "run", tiny_llama)


@pytest.fixture(scope="module")
def reporter(run_folder: Path) -> RecordingReporter:
    return train(run_folder)


def test_scores_are_of_the_runs_own_answers(reporter: RecordingReporter) -> None:
    answers = {message.step: message.answers for message in reporter.of(HeldOutAnswers)}
    evaluations = reporter.of(Evaluated)
    assert len(evaluations) == 1 + OVERFITTED["n_evals"]
    for evaluated in evaluations:
        right = [answer.got.strip() == answer.expected.strip() for answer in answers[evaluated.step]]
        assert tuple(evaluated.scores) == METRICS
        assert evaluated.scores["exact_match"] == sum(right) / len(LINES)
        assert evaluated.scores["nats_per_token"] == evaluated.loss
    assert (evaluations[0].scores["exact_match"], evaluations[-1].scores["chrf"]) == (0, 1)


def test_checkpoints_and_the_result_file_have_them(run_folder: Path, reporter: RecordingReporter) -> None:
    scores = {evaluated.step: list(evaluated.scores.values()) for evaluated in reporter.of(Evaluated)}
    checkpoints = reporter.of(CheckpointWritten)
    assert [written.step for written in checkpoints] == sorted(scores)[1:]
    for written in checkpoints:
        assert [written.metrics[name] for name in COLUMNS] == scores[written.step]
    with (run_folder / RESULTS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {
        int(row["step"]): [float(row[name]) for name in COLUMNS] for row in rows if row["eval_exact_match"]
    } == scores


def test_the_best_by_the_metric_is_published_though_the_loss_still_falls(
    run_folder: Path, reporter: RecordingReporter
) -> None:
    evaluations = reporter.of(Evaluated)[1:]
    best = max(evaluations, key=lambda evaluated: evaluated.scores["exact_match"] or 0)  # the first of equal ones
    lowest = min(evaluations, key=lambda evaluated: evaluated.loss or 0)
    assert best.step < lowest.step
    (finished,) = reporter.of(Finished)
    manifest = parse_manifest((run_folder / ADAPTER / MANIFEST).read_bytes())
    assert (finished.adapter_step, manifest.step) == (best.step, best.step)
    assert finished.metrics["eval_exact_match"] == best.scores["exact_match"] == 1
    told = f"The adapter of step {best.step} is the result: its exact_match, 1.0000, is the highest"
    assert told in [note.message for note in reporter.of(Note)]


def test_a_killed_run_ends_with_the_same_scores_and_adapter(
    tmp_path: Path, tiny_llama: Path, run_folder: Path, reporter: RecordingReporter
) -> None:
    folder = scored_run(tmp_path / "killed", tiny_llama)
    with pytest.raises(Killed):
        train(folder, kill_after(reporter.of(Finished)[0].adapter_step + 1))
    train(folder)
    for name in (RESULTS, f"{ADAPTER}/{WEIGHTS}"):
        assert (folder / name).read_bytes() == (run_folder / name).read_bytes()


LONG = [{"prompt": "long:", "completion": " one" * 25}]  # more tokens than a trainer writes


@pytest.mark.parametrize(("metric", "validation"), [("json_field_f1", LINES), ("exact_match", LONG)])
def test_a_run_whose_best_can_have_no_score_ends_before_its_first_step(
    tmp_path: Path, tiny_llama: Path, metric: str, validation: list[dict[str, str]]
) -> None:
    reporter = RecordingReporter()
    fields: dict[str, Any] = {"evaluation": {"metrics": (metric,)}, "load_best_model_at_end": metric}
    with pytest.raises(NothingToScore, match=f"^load_best_model_at_end goes by {metric}, and none of the "):
        train(write_run(tmp_path / "run", tiny_llama, LINES, validation=validation, **fields), reporter)
    assert reporter.of(StepDone) == []


def test_a_run_without_any_score_says_that_its_last_step_is_the_result(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "mean_scores", lambda *_: {"repetition": None})  # each answer has under four words
    fields: dict[str, Any] = {"evaluation": {"metrics": ("repetition",)}, "load_best_model_at_end": "repetition"}
    reporter = train(write_run(tmp_path / "run", tiny_llama, LINES, validation=LINES, n_epochs=1, **fields))
    (finished,) = reporter.of(Finished)
    assert finished.adapter_step == finished.steps
    told = "No evaluation had a score by repetition, so the adapter of the last step is the result"
    assert (EventLevel.WARN, told) in [(note.level, note.message) for note in reporter.of(Note)]
