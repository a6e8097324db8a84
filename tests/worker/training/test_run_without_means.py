"""Runs in which a mean is over nothing: it is null wherever it is told, and what hangs on it is refused."""

import csv
from pathlib import Path
from typing import Any

import pytest

from core.errors import NoTrainedTokens
from tests.worker.training.run_folders import SUMS, train, write_run
from worker.trainer_process.messages import CheckpointWritten, Evaluated, Finished, Note, StepDone
from worker.trainer_process.run_folder import RESULTS


def _chat(*, weight: float) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "2", "weight": weight}
    return {"messages": [{"role": "user", "content": "1+1="}, answer]}


def _results(folder: Path) -> list[dict[str, str]]:
    with (folder / RESULTS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_without_held_out_examples_it_says_so(tmp_path: Path, tiny_phi: Path) -> None:
    reporter = train(write_run(tmp_path / "run", tiny_phi, validation=[]))
    assert reporter.of(Evaluated) == []
    assert any("so the adapter is not scored" in note.message for note in reporter.of(Note))


def test_of_one_prompt_it_says_that_none_is_held_out(tmp_path: Path, tiny_phi: Path) -> None:
    reporter = train(write_run(tmp_path / "run", tiny_phi, SUMS[:1] * 3, n_epochs=1))
    sentence = "no example is held out, as fewer than two prompts have an answer that can be scored"
    assert any(sentence in note.message for note in reporter.of(Note))


def test_held_out_answers_without_a_weight_have_no_loss_rather_than_the_best_there_is(
    tmp_path: Path, tiny_phi: Path
) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, validation=[_chat(weight=0)], n_epochs=1)
    reporter = train(folder)
    assert reporter.of(Evaluated) == []
    sentence = "no example of the validation file fits and has a completion token with a weight, so the adapter is"
    assert any(sentence in note.message for note in reporter.of(Note))
    (finished,) = reporter.of(Finished)
    for metrics in (finished.metrics, reporter.of(CheckpointWritten)[-1].metrics):
        assert metrics["valid_loss"] is metrics["full_valid_mean_token_accuracy"] is None
        assert metrics["train_loss"]
    assert {row["valid_loss"] for row in _results(folder)} == {""}


def test_a_step_that_trains_prompts_only_has_no_loss_of_completions(tmp_path: Path, tiny_phi: Path) -> None:
    lines = [_chat(weight=0), _chat(weight=1)]
    folder = write_run(
        tmp_path / "run", tiny_phi, lines, validation=[], prompt_loss_weight=0.5, batch_size=1, n_epochs=1
    )
    steps = sorted(train(folder).of(StepDone), key=lambda step: step.completion_loss is not None)
    assert [(step.completion_loss is None, step.token_accuracy is None) for step in steps] == [
        (True, True),
        (False, False),
    ]
    assert all(step.loss > 0 for step in steps)
    assert sorted(bool(row["train_loss"]) for row in _results(folder)) == [False, True]


def test_weights_that_are_0_as_the_trainer_keeps_them_are_refused_by_line(tmp_path: Path, tiny_phi: Path) -> None:
    lines = [_chat(weight=1), _chat(weight=1e-60)]
    with pytest.raises(NoTrainedTokens, match="too small to be told from 0") as caught:
        train(write_run(tmp_path / "run", tiny_phi, lines, validation=[], batch_size=1, n_epochs=1))
    assert caught.value.lines == (2,)
