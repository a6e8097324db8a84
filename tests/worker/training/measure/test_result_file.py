import csv
from pathlib import Path

import pytest

from tests.worker.jobs.step_messages import step_done
from tests.worker.training.run_folders import Killed, kill_after, train, write_run
from worker.trainer_process.messages import Evaluated, StepDone
from worker.trainer_process.run_folder import RESULTS
from worker.training.measure.result_file import COLUMNS, OPENAI_COLUMNS, ResultRows

OPENAIS_HEADER = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
EVALUATED = Evaluated(step=1, loss=0.25, token_accuracy=0.75, tokens=4, examples=2, exact_match=0.5, stop_rate=1.0)


def _step(number: int, *, prompt_loss: float | None = None) -> StepDone:
    return step_done(step=number, epoch=number / 2, completion_loss=1 / 3, prompt_loss=prompt_loss)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestRows:
    def test_begin_with_openais_columns_in_their_order(self, tmp_path: Path) -> None:
        rows = ResultRows()
        rows.add_step(_step(1))
        rows.add_step(_step(2, prompt_loss=2.5))
        rows.write(tmp_path / RESULTS)
        header, first, second = (tmp_path / RESULTS).read_text().splitlines()
        assert header.startswith(f"{OPENAIS_HEADER},")
        assert ",".join(OPENAI_COLUMNS) == OPENAIS_HEADER
        assert first == "1,0.3333333333333333,0.5,,,1.5,,0.001,2.0,3,4,,"
        assert second == "2,0.3333333333333333,0.5,,,1.5,2.5,0.001,2.0,3,4,,"

    def test_an_evaluation_completes_its_steps_row(self, tmp_path: Path) -> None:
        rows = ResultRows()
        rows.add_step(_step(1))
        rows.add_evaluation(EVALUATED)
        rows.write(tmp_path / RESULTS)
        [row] = _read(tmp_path / RESULTS)
        assert (row["train_loss"], row["valid_loss"]) == ("0.3333333333333333", "0.25")
        assert (row["valid_mean_token_accuracy"], row["exact_match"], row["stop_rate"]) == ("0.75", "0.5", "1.0")

    def test_scores_by_the_jobs_metrics_have_the_last_columns(self, tmp_path: Path) -> None:
        rows = ResultRows()
        rows.add_evaluation(EVALUATED.model_copy(update={"step": 0, "scores": {"chrf": 0.5, "rouge_l": None}}))
        rows.add_step(_step(1))
        rows.write(tmp_path / RESULTS)
        header = (tmp_path / RESULTS).read_text().splitlines()[0].split(",")
        assert header == [*COLUMNS, "eval_chrf"]
        again = ResultRows.read(tmp_path / RESULTS)
        again.write(tmp_path / "again.csv")
        assert (tmp_path / "again.csv").read_bytes() == (tmp_path / RESULTS).read_bytes()
        assert [row["eval_chrf"] for row in _read(tmp_path / RESULTS)] == ["0.5", ""]

    def test_before_the_first_step_there_is_only_the_evaluation(self, tmp_path: Path) -> None:
        rows = ResultRows()
        rows.add_evaluation(EVALUATED.model_copy(update={"step": 0}))
        rows.add_step(_step(1))
        rows.write(tmp_path / RESULTS)
        before, first = _read(tmp_path / RESULTS)
        assert (before["step"], before["train_loss"], before["valid_loss"]) == ("0", "", "0.25")
        assert (first["step"], first["valid_loss"]) == ("1", "")

    def test_go_on_from_a_file_as_if_there_had_been_none_between(self, tmp_path: Path) -> None:
        whole = ResultRows()
        whole.add_step(_step(1))
        whole.add_evaluation(EVALUATED)
        whole.write(tmp_path / "part.csv")
        resumed = ResultRows.read(tmp_path / "part.csv")
        for rows, name in ((whole, "whole.csv"), (resumed, "resumed.csv")):
            rows.add_step(_step(2))
            rows.write(tmp_path / name)
        assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

    def test_a_checkpoint_of_an_older_version_gives_none(self, tmp_path: Path) -> None:
        ResultRows.read(tmp_path / RESULTS).write(tmp_path / "after.csv")
        assert (tmp_path / "after.csv").read_text() == f"{','.join(COLUMNS)}\n"


@pytest.mark.parametrize("killed_after", [3, 7])
def test_a_resumed_runs_file_is_the_undisturbed_runs_to_the_byte(
    tmp_path: Path, tiny_phi: Path, killed_after: int
) -> None:
    whole, folder = write_run(tmp_path / "whole", tiny_phi), write_run(tmp_path / "killed", tiny_phi)
    reporter = train(whole)
    with pytest.raises(Killed):
        train(folder, kill_after(killed_after))
    train(folder)
    assert (folder / RESULTS).read_bytes() == (whole / RESULTS).read_bytes()
    rows = _read(folder / RESULTS)
    assert [float(row["train_loss"]) for row in rows[1:]] == [step.completion_loss for step in reporter.of(StepDone)]
    scores = {str(evaluated.step): str(evaluated.loss) for evaluated in reporter.of(Evaluated)}
    assert {row["step"]: row["valid_loss"] for row in rows if row["valid_loss"]} == scores


def test_a_finished_run_that_is_started_again_has_the_same_file(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    train(folder)
    before = (folder / RESULTS).read_bytes()
    train(folder)
    assert (folder / RESULTS).read_bytes() == before


def test_a_mean_over_nothing_is_an_empty_cell(tmp_path: Path) -> None:
    rows = ResultRows()
    rows.add_step(step_done(step=1, completion_loss=None, token_accuracy=None))
    rows.add_evaluation(Evaluated(step=1, loss=None, token_accuracy=None, tokens=0, examples=2))
    rows.write(tmp_path / RESULTS)
    [row] = _read(tmp_path / RESULTS)
    names = ("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy", "exact_match")
    assert [row[name] for name in names] == [""] * 5
    assert row["loss"] == "1.5"
