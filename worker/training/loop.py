"""The training loop: steps, evaluations and checkpoints, in an order that makes a resumed run equal.

What a step learns from is ``worker.training.data.plan``; what the loss is, ``worker.training.model.loss``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.errors import LossNotFinite
from worker.trainer_process.messages import CheckpointWritten
from worker.training.data.examples import RunData
from worker.training.data.plan import TrainingPlan
from worker.training.lockstep import SharedWork
from worker.training.measure.answer_scores import mean_scores
from worker.training.measure.evaluation import evaluate
from worker.training.measure.generation_eval import GenerationEvaluator
from worker.training.measure.result_file import ResultRows
from worker.training.measure.stopwatch import Stopwatch
from worker.training.metrics import Meter, Progress
from worker.training.model.lora import LoraModel
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.process.ranks import ALONE, Ranks
from worker.training.process.reporter import Reporter
from worker.training.process.stopping import CheckStop, Stopped
from worker.training.step import GradientAccumulator

CHECKPOINT_INTERVAL_S = 60.0


@dataclass
class TrainingLoop:
    """One run from where ``progress`` stands to its end; of several ranks, all take the same way through it."""

    model: LoraModel
    data: RunData
    plan: TrainingPlan
    optimizer: AdapterOptimizer
    gradient: GradientAccumulator
    progress: Progress
    reporter: Reporter
    check_stop: CheckStop
    write_checkpoint: Callable[[Progress], str]  # gives the folder; only the leading rank calls it
    stopwatch: Stopwatch
    meter: Meter
    generation_evaluator: GenerationEvaluator
    results: ResultRows
    metrics: tuple[str, ...] = ()  # by which the answers are scored
    best_by: str | None = None  # the metric by which an evaluation is the best; None: the loss
    patience: int | None = None  # evaluations without improvement that end the run; None: it trains to its last step
    ranks: Ranks = ALONE
    evaluated_tokens: int = 0  # that went through the model to be scored, of this process

    def run(self) -> SharedWork[None]:
        """Train to the end, each micro-batch as part of a pass that others may share.

        Raises:
            Stopped: the trainer was told to stop; a checkpoint of the last whole step is written.
            LossNotFinite: loss or gradient is no number any more.
            LabelsMismatch: a micro-batch is not what its examples say.
            RanksDiffer: the ranks hold different adapters.
        """
        self._require_equal_ranks()
        saved_step, saved_at_s = self.progress.step, time.monotonic()
        try:
            while True:
                if self._evaluation_is_due():
                    self._evaluate()
                    if self.progress.step:
                        self._checkpoint()
                        saved_step, saved_at_s = self.progress.step, time.monotonic()
                if self._is_over():
                    return
                yield from self._take_step()
                is_late = self.ranks.any(time.monotonic() - saved_at_s >= CHECKPOINT_INTERVAL_S)
                if is_late and not self._evaluation_is_due():
                    self._checkpoint()
                    saved_step, saved_at_s = self.progress.step, time.monotonic()
        except Stopped:
            self.optimizer.drop_gradients()
            if self.progress.step > saved_step:
                self._checkpoint()
            raise

    def _is_over(self) -> bool:
        return self.progress.step == self.plan.total_steps or self.progress.standing.is_exhausted(self.patience)

    def _evaluation_is_due(self) -> bool:
        last = self.progress.evaluation
        return self.progress.step in self.plan.evaluated_after and (last is None or last.step != self.progress.step)

    def _evaluate(self) -> None:
        with self.stopwatch.within("evaluating"):
            evaluation = evaluate(
                self.model,
                self.data.held_out,
                step=self.progress.step,
                token_budget=self.gradient.token_budget,
                check_stop=self.check_stop,
                ranks=self.ranks,
            )
        with self.stopwatch.within("sampling"):
            answers = self.ranks.run_on_leader(
                lambda: self.generation_evaluator.evaluate(self.progress.step, self.check_stop)
            )
        scores: dict[str, Any] = {"scores": mean_scores(self.metrics, evaluation, answers)}
        if answers is not None:
            scores |= {"exact_match": answers.exact_match, "stop_rate": answers.stop_rate}
            self.reporter.send(answers)
        evaluation = evaluation.model_copy(update=scores)
        self.evaluated_tokens += len(self.data.held_out.ids)
        self.progress.evaluation = evaluation
        if evaluation.loss is not None:
            _require_finite_score(evaluation.step, evaluation.loss)
            self.results.add_evaluation(evaluation)
            self.reporter.send(evaluation)
            if self.progress.step:
                self.progress.standing = self.progress.standing.after(evaluation, self.best_by)

    def _require_equal_ranks(self) -> None:
        self.ranks.require_equal(self.progress.step, self.model.parameters.values())

    def _checkpoint(self) -> None:
        self._require_equal_ranks()
        if not self.ranks.leads:
            return
        with self.stopwatch.within("saving"):
            folder = self.write_checkpoint(self.progress)
        self.reporter.send(CheckpointWritten(step=self.progress.step, folder=folder, metrics=self.progress.metrics()))

    def _take_step(self) -> SharedWork[None]:
        sums = yield from self.gradient.shares(self.progress.step)
        with sums.times.within("optimizer"):
            grad_norm = self.optimizer.clip()
            assert sums.loss.loss is not None  # a step without a weight is refused before its gradient
            self._require_finite(sums.loss.loss, grad_norm)
            learning_rate = self.optimizer.step(self.progress.step)
        done = self.meter.measure(self.progress, sums, grad_norm=grad_norm, learning_rate=learning_rate)
        self.results.add_step(done)
        self.reporter.send(done)

    def _require_finite(self, loss: float, grad_norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        members = self.plan.members_of(self.progress.step)
        lines = tuple(sorted(int(self.data.training.lines[index]) for index in members))
        raise LossNotFinite(
            f"at step {self.progress.step + 1} the loss is {loss} and the gradient's norm {grad_norm}; "
            "lower the learning rate, and look at the examples of this step",
            lines,
        )


def _require_finite_score(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise LossNotFinite(f"after step {step} the validation loss is {loss}; lower the learning rate")
