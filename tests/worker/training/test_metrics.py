from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.training.run_folders import SUMS, train, write_run
from worker.trainer_process.messages import Evaluated, StepDone
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.measure.flops import TrainingFlops
from worker.training.measure.step_times import StepTimes
from worker.training.metrics import Meter, Progress, TrainingThroughput
from worker.training.process.loss_sums import LossSums
from worker.training.step import StepSums

WEIGHTS = np.array([0, 0, 1, 1], dtype=np.float32)  # of each example: 3 inputs, 2 scored
EXAMPLES = ExampleSet(
    ids=np.arange(8, dtype=np.int32),
    weights=np.tile(WEIGHTS, 2),
    is_completion=np.tile(WEIGHTS, 2) > 0,
    offsets=np.array([0, 4, 8]),
    lines=np.array([1, 2]),
)


def _times(step_s: float) -> StepTimes:
    clock: Iterator[float] = iter((0.0, 0.0, step_s / 2, step_s, step_s))
    times = StepTimes(clock=lambda: next(clock))
    with times.within("forward"):
        pass
    return times


def _found(step_s: float) -> StepSums:
    sums = LossSums(weighted_nll=3.0, weight=2.0, completion_nll=3.0, completion_tokens=2)
    return StepSums(loss=sums, tokens=4, inputs=16, times=_times(step_s))


class TestMeter:
    def test_measures_a_step_against_the_machines_own_speed(self) -> None:
        flops = TrainingFlops(per_input=10, per_pair=1, per_scored=100, per_scored_pair=2)
        meter = Meter(EXAMPLES, TrainingPlan(2, 1, 3, 0), flops, peak_flops_per_s=500.0, device=torch.device("cpu"))
        progress = Progress()
        done = meter.measure(progress, _found(2.0), grad_norm=1.0, learning_rate=0.1)
        needed = 3 * 10 + 6 * 1 + 2 * 100 + 5 * 2  # inputs, pairs, scored, pairs of what is scored
        assert done.mfu == pytest.approx(needed / 2.0 / 500.0)
        assert (done.tokens_per_s, done.padding_tokens) == (2.0, 16 - 3)
        assert (done.seconds.total, done.seconds.forward, done.seconds.backward) == (2.0, 1.0, 0.0)
        assert done.eta_s == (3 * 8 - 4) / 2.0
        assert (progress.step, progress.seen_tokens, progress.trained_tokens, progress.padding_tokens) == (1, 4, 2, 13)
        assert (progress.train_loss, done.completion_loss, done.prompt_loss) == (1.5, 1.5, None)


class TestSpeed:
    def test_the_first_step_counts_only_until_there_is_a_second(self) -> None:
        throughput = TrainingThroughput()
        throughput.add(tokens=10, flops=100, seconds=50.0)
        assert (throughput.tokens_per_s, throughput.flops_per_s) == (0.2, 2.0)
        throughput.add(tokens=10, flops=100, seconds=1.0)
        assert (throughput.tokens_per_s, throughput.flops_per_s) == (10.0, 100.0)

    def test_an_older_step_counts_less(self) -> None:
        throughput = TrainingThroughput()
        for seconds in (1.0, 1.0, 3.0):
            throughput.add(tokens=10, flops=100, seconds=seconds)
        assert throughput.tokens_per_s == pytest.approx((0.9 * 10 + 10) / (0.9 * 1 + 3))


class TestProgress:
    def test_an_older_evaluation_is_no_metric_of_this_step(self) -> None:
        evaluation = Evaluated(step=1, loss=0.5, token_accuracy=0.25, tokens=1, examples=1, exact_match=1.0)
        progress = Progress(step=1, train_loss=2.0, train_token_accuracy=0.5, evaluation=evaluation)
        assert progress.metrics() == {
            "step": 1.0,
            "train_loss": 2.0,
            "train_mean_token_accuracy": 0.5,
            "valid_loss": 0.5,
            "valid_mean_token_accuracy": 0.25,
            "full_valid_loss": 0.5,
            "full_valid_mean_token_accuracy": 0.25,
        }
        progress.step = 2
        assert set(progress.metrics()) == {"step", "train_loss", "train_mean_token_accuracy"}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, tiny_phi: Path) -> list[StepDone]:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", tiny_phi, prompt_loss_weight=0.5)
    return train(folder).of(StepDone)


class TestRuns:
    def test_the_loss_is_the_weighted_mean_of_prompts_and_completions(self, tmp_path: Path, tiny_phi: Path) -> None:
        line = {"prompt": "abcdef", "completion": "gh"}  # 5 predicted prompt tokens, 2 and the closing one behind them
        [step] = train(
            write_run(tmp_path / "run", tiny_phi, [line], validation=[], n_epochs=1, prompt_loss_weight=0.5)
        ).of(StepDone)
        assert step.prompt_loss is not None
        assert step.completion_loss is not None
        assert step.loss == pytest.approx((0.5 * 5 * step.prompt_loss + 3 * step.completion_loss) / (0.5 * 5 + 3))

    def test_the_parts_of_a_step_are_most_of_it(self, steps: list[StepDone]) -> None:
        for step in steps:
            parts = (step.seconds.data, step.seconds.forward, step.seconds.backward, step.seconds.optimizer)
            assert all(part > 0 for part in parts)
            assert sum(parts) <= step.seconds.total

    def test_every_step_says_what_share_of_the_machine_it_needed(self, steps: list[StepDone]) -> None:
        assert all(step.mfu is not None and step.mfu > 0 for step in steps)

    def test_padding_is_counted_over_the_run(self, steps: list[StepDone]) -> None:
        so_far = [step.padding_tokens for step in steps]
        assert so_far == sorted(so_far)

    def test_without_a_weight_prompts_have_no_loss(self, tmp_path: Path, tiny_phi: Path) -> None:
        reporter = train(write_run(tmp_path / "run", tiny_phi, SUMS[:5], validation=[], n_epochs=1))
        assert [step.prompt_loss for step in reporter.of(StepDone)] == [None]
