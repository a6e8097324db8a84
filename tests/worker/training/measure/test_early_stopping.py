"""Early stopping and the best checkpoint: by numbers, and in whole runs whose validation loss is dictated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.errors import NothingToScore
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from tests.worker.training.run_folders import Killed, RecordingReporter, kill_after, stop_after, train, write_run
from worker.trainer_process.messages import Evaluated, Finished, Note, Resumed, StepDone
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS
from worker.training import loop as loop_module
from worker.training.measure.early_stopping import Standing, describe_ending
from worker.training.measure.evaluation import evaluate
from worker.training.output.checkpoint import BEST

TOTAL_STEPS = 5  # of a run over SUMS with the batches of make_job and one epoch
WEIGHTLESS = {"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2", "weight": 0}]}
EACH_STEP: dict[str, Any] = {"n_epochs": 1, "n_evals": TOTAL_STEPS}


def _evaluated(step: int, loss: float) -> Evaluated:
    return Evaluated(step=step, loss=loss, token_accuracy=0.5, tokens=9, examples=3)


def _standing(losses: Sequence[float]) -> Standing:
    standing = Standing()
    for step, loss in enumerate(losses, start=1):
        standing = standing.after(_evaluated(step, loss))
    return standing


class TestStanding:
    @pytest.mark.parametrize(
        ("losses", "best", "since"),
        [
            ([3.0], 1, 0),
            ([3.0, 2.0, 1.0], 3, 0),
            ([3.0, 2.0, 2.5, 2.1], 2, 2),
            ([2.0, 2.0], 1, 1),
            ([3.0, 4.0, 1.0, 2.0], 3, 1),
            ([3.0, float("nan")], 1, 1),
        ],
    )
    def test_the_lowest_loss_is_the_best_and_an_equal_one_is_no_improvement(
        self, losses: list[float], best: int, since: int
    ) -> None:
        standing = _standing(losses)
        assert standing.best is not None
        assert (standing.best.step, standing.without_improvement) == (best, since)

    @pytest.mark.parametrize(("patience", "over"), [(1, True), (2, True), (3, False), (None, False)])
    def test_patience_counts_evaluations_since_the_best(self, patience: int | None, over: bool) -> None:
        assert _standing([1.0, 2.0, 3.0]).is_exhausted(patience) is over

    def test_an_evaluation_of_nothing_is_neither_the_best_nor_without_improvement(self) -> None:
        nothing = Evaluated(step=2, loss=None, token_accuracy=None, tokens=0, examples=1)
        assert Standing().after(nothing) == Standing()
        assert _standing([3.0]).after(nothing) == _standing([3.0])

    @pytest.mark.parametrize(("metric", "best", "since"), [("chrf", 2, 1), ("repetition", 3, 0)])
    def test_a_metric_that_is_named_decides_by_its_own_better_way(self, metric: str, best: int, since: int) -> None:
        standing = Standing()
        for step, score in enumerate([0.5, 0.75, 0.25], start=1):
            scored = _evaluated(step, loss=float(step)).model_copy(update={"scores": {metric: score}})
            standing = standing.after(scored, metric)
        assert standing.best is not None
        assert (standing.best.step, standing.without_improvement) == (best, since)
        told = " ".join(describe_ending(standing, 4, 9, publishes_best=True, by=metric))
        assert f"its {metric}, {standing.best.scores[metric]:.4f}, is the" in told

    def test_nothing_evaluated_is_no_reason_to_stop(self) -> None:
        assert not Standing().is_exhausted(1)
        assert list(describe_ending(Standing(), 3, 3, publishes_best=True)) == []


@pytest.fixture
def dictate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the evaluation after step n give the n-th of these losses, 9.0 before the first step."""

    def use(losses: Sequence[float]) -> None:
        def dictated(*arguments: Any, step: int, **named: Any) -> Evaluated:
            honest = evaluate(*arguments, step=step, **named)
            return honest.model_copy(update={"loss": [9.0, *losses][step]})

        monkeypatch.setattr(loop_module, "evaluate", dictated)

    return use


WORSE_FROM_3 = [4.0, 3.0, 3.5, 3.6, 3.7]
BETTER_AT_LAST = [4.0, 4.5, 3.0, 3.5, 1.0]
EARLY: dict[str, Any] = EACH_STEP | {"early_stopping_patience": 2}
BEST_OF_ALL: dict[str, Any] = EACH_STEP | {"load_best_model_at_end": True}


def _published_step(folder: Path) -> int:
    return parse_manifest((folder / ADAPTER / MANIFEST).read_bytes()).step


class TestEarlyStopping:
    def test_a_run_ends_when_its_patience_does(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **EARLY)
        reporter = train(folder)
        assert [step.step for step in reporter.of(StepDone)] == [1, 2, 3, 4]
        (finished,) = reporter.of(Finished)
        assert (finished.steps, finished.adapter_step, _published_step(folder)) == (4, 4, 4)
        assert any("Stopped early, after step 4 of 5" in note.message for note in reporter.of(Note))

    def test_an_improvement_renews_it(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(BETTER_AT_LAST)
        reporter = train(write_run(tmp_path / "run", tiny_phi, **EARLY))
        assert len(reporter.of(StepDone)) == TOTAL_STEPS
        assert not any("Stopped early" in note.message for note in reporter.of(Note))

    def test_without_patience_a_run_goes_to_its_end(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        assert len(train(write_run(tmp_path / "run", tiny_phi, **EACH_STEP)).of(StepDone)) == TOTAL_STEPS

    def test_the_loss_before_the_first_step_is_nobodys_best(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate([20.0, 19.0, 18.0, 17.0, 16.0])
        assert len(train(write_run(tmp_path / "run", tiny_phi, **EARLY)).of(StepDone)) == TOTAL_STEPS

    @pytest.mark.parametrize("killed_after", [3, 4])
    def test_a_resumed_run_stops_at_the_same_step_with_the_same_bits(
        self, tmp_path: Path, tiny_phi: Path, dictate: Any, killed_after: int
    ) -> None:
        """After step 3 one evaluation has brought no improvement: the count comes from the checkpoint."""
        dictate(WORSE_FROM_3)
        whole = write_run(tmp_path / "whole", tiny_phi, **EARLY)
        train(whole)
        folder = write_run(tmp_path / "killed", tiny_phi, **EARLY)
        with pytest.raises(Killed):
            train(folder, kill_after(killed_after))
        reporter = train(folder)
        assert reporter.of(Resumed)[0].step == killed_after - 1
        assert reporter.of(Finished)[0].steps == 4
        assert (folder / ADAPTER / WEIGHTS).read_bytes() == (whole / ADAPTER / WEIGHTS).read_bytes()

    def test_a_run_that_had_stopped_stays_stopped(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **EARLY)
        train(folder)
        reporter = train(folder)
        assert reporter.of(StepDone) == []
        assert reporter.of(Finished)[0].steps == 4

    @pytest.mark.parametrize("validation", [[], [WEIGHTLESS]])
    @pytest.mark.parametrize(
        ("fields", "named"),
        [(EARLY, "early_stopping_patience"), (BEST_OF_ALL, "load_best_model_at_end")],
    )
    def test_a_run_that_goes_by_the_loss_of_nothing_ends_before_its_first_step(
        self, tmp_path: Path, tiny_phi: Path, validation: list[Any], fields: dict[str, Any], named: str
    ) -> None:
        reporter = RecordingReporter()
        with pytest.raises(NothingToScore, match=f"^{named} goes by the loss of held-out completions"):
            train(write_run(tmp_path / "run", tiny_phi, validation=validation, **fields), reporter)
        assert reporter.of(StepDone) == []


class TestBestCheckpoint:
    def test_the_best_evaluated_step_is_published_and_named(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        stopped = write_run(tmp_path / "stopped", tiny_phi, **BEST_OF_ALL)
        stop_after(stopped, step=2)
        at_2 = (stopped / CHECKPOINTS / "step-000002" / ADAPTER / WEIGHTS).read_bytes()
        folder = write_run(tmp_path / "run", tiny_phi, **BEST_OF_ALL)
        reporter = train(folder)
        (finished,) = reporter.of(Finished)
        assert (finished.steps, finished.adapter_step, _published_step(folder)) == (TOTAL_STEPS, 2, 2)
        assert (folder / ADAPTER / WEIGHTS).read_bytes() == at_2
        assert finished.metrics["valid_loss"] == 3.0
        assert any("The adapter of step 2 is the result" in note.message for note in reporter.of(Note))

    def test_the_last_step_is_published_where_it_is_the_best(
        self, tmp_path: Path, tiny_phi: Path, dictate: Any
    ) -> None:
        dictate(BETTER_AT_LAST)
        chosen, plain = (
            write_run(tmp_path / "a", tiny_phi, **BEST_OF_ALL),
            write_run(tmp_path / "b", tiny_phi, n_epochs=1),
        )
        assert train(chosen).of(Finished)[0].adapter_step == TOTAL_STEPS
        train(plain)
        assert (chosen / ADAPTER / WEIGHTS).read_bytes() == (plain / ADAPTER / WEIGHTS).read_bytes()

    def test_each_later_checkpoint_holds_it(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **BEST_OF_ALL)
        train(folder)
        kept = sorted(path.name for path in (folder / CHECKPOINTS).iterdir())
        assert kept == ["step-000004", "step-000005"]
        for name in kept:
            manifest = (folder / CHECKPOINTS / name / BEST / MANIFEST).read_bytes()
            assert parse_manifest(manifest).step == 2

    def test_it_outlives_attempts_and_the_folder_it_was_written_in(
        self, tmp_path: Path, tiny_phi: Path, dictate: Any
    ) -> None:
        dictate(WORSE_FROM_3)
        whole = write_run(tmp_path / "whole", tiny_phi, **BEST_OF_ALL)
        train(whole)
        first = write_run(tmp_path / "a1", tiny_phi, **BEST_OF_ALL)
        stop_after(first, step=4)
        newest = first / CHECKPOINTS / "step-000004"
        second = write_run(tmp_path / "a2", tiny_phi, resume_from=(newest,), **BEST_OF_ALL)
        reporter = train(second)
        assert reporter.of(Resumed)[0].step == 4
        assert (second / ADAPTER / MANIFEST).read_bytes() == (whole / ADAPTER / MANIFEST).read_bytes()
        assert _published_step(second) == 2

    def test_a_damaged_best_adapter_makes_its_checkpoint_unfit(
        self, tmp_path: Path, tiny_phi: Path, dictate: Any
    ) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **BEST_OF_ALL)
        stop_after(folder, step=4)
        damaged = folder / CHECKPOINTS / "step-000004" / BEST / WEIGHTS
        damaged.unlink()  # it is linked into the other checkpoints, which must stay as they are
        damaged.write_bytes(b"torn")
        reporter = train(folder)
        assert reporter.of(Resumed)[0].step == 3
        assert _published_step(folder) == 2

    def test_it_is_not_kept_where_nobody_asks_for_it(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **EACH_STEP)
        reporter = train(folder)
        assert not list(folder.rglob(BEST))
        assert reporter.of(Finished)[0].adapter_step == TOTAL_STEPS

    def test_the_standing_is_part_of_a_checkpoints_state(self, tmp_path: Path, tiny_phi: Path, dictate: Any) -> None:
        dictate(WORSE_FROM_3)
        folder = write_run(tmp_path / "run", tiny_phi, **BEST_OF_ALL)
        stop_after(folder, step=4)
        state = json.loads((folder / CHECKPOINTS / "step-000004" / "state.json").read_text())
        # told to stop after step 4, it writes a checkpoint before that step is evaluated
        assert (state["standing"]["best"]["step"], state["standing"]["without_improvement"]) == (2, 1)
