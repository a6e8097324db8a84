"""The training loop: steps, evaluations and checkpoints, in an order that makes a resumed run equal.

What a step learns from is ``worker.training.plan``; what the loss is, ``worker.training.loss``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import LossNotFinite
from worker.messages import CheckpointWritten, Evaluated, StepDone
from worker.training.data import RunData
from worker.training.evaluation import evaluate
from worker.training.lora import LoraModel
from worker.training.loss import LossSums
from worker.training.memory import peak_memory_bytes
from worker.training.optimizer import AdapterOptimizer
from worker.training.plan import Plan
from worker.training.reporter import Reporter
from worker.training.step import GradientAccumulator
from worker.training.stopping import CheckStop, Stopped
from worker.training.stopwatch import Stopwatch

CHECKPOINT_INTERVAL_S = 60.0
RATE_KEPT = 0.9  # how much of the smoothed tokens per second outlives a step


@dataclass
class Progress:
    """Where a run stands; a checkpoint holds all of it."""

    step: int = 0
    seen_tokens: int = 0
    trained_tokens: int = 0
    train_loss: float = 0.0  # of the last step, per completion token
    train_token_accuracy: float = 0.0
    evaluation: Evaluated | None = None  # the last one

    def metrics(self) -> dict[str, float]:
        """Give the present step's numbers under OpenAI's names; an older evaluation's are left out."""
        metrics = {
            "step": float(self.step),
            "train_loss": self.train_loss,
            "train_mean_token_accuracy": self.train_token_accuracy,
        }
        if self.evaluation is not None and self.evaluation.step == self.step:
            for prefix in ("valid", "full_valid"):
                metrics[f"{prefix}_loss"] = self.evaluation.loss
                metrics[f"{prefix}_mean_token_accuracy"] = self.evaluation.token_accuracy
        return metrics


@dataclass
class TrainingLoop:
    """One run from where ``progress`` stands to its last step."""

    model: LoraModel
    data: RunData
    plan: Plan
    optimizer: AdapterOptimizer
    gradient: GradientAccumulator
    progress: Progress
    reporter: Reporter
    check_stop: CheckStop
    write_checkpoint: Callable[[Progress], str]  # gives the folder
    stopwatch: Stopwatch
    evaluated_tokens: int = 0  # that went through the model to be scored, of this process
    tokens_per_s: float = 0.0

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: the trainer was told to stop; a checkpoint of the last whole step is written.
            LossNotFinite: loss or gradient is no number any more.
            LabelsMismatch: a micro-batch is not what its examples say.
        """
        saved_step, saved_at_s = self.progress.step, time.monotonic()
        try:
            while True:
                if self._evaluation_is_due():
                    self._evaluate()
                    if self.progress.step:
                        self._checkpoint()
                        saved_step, saved_at_s = self.progress.step, time.monotonic()
                if self.progress.step == self.plan.total_steps:
                    return
                self._take_step()
                if time.monotonic() - saved_at_s >= CHECKPOINT_INTERVAL_S and not self._evaluation_is_due():
                    self._checkpoint()
                    saved_step, saved_at_s = self.progress.step, time.monotonic()
        except Stopped:
            self.optimizer.drop_gradients()
            if self.progress.step > saved_step:
                self._checkpoint()
            raise

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
            )
        self.evaluated_tokens += len(self.data.held_out.ids)
        self.progress.evaluation = evaluation
        if evaluation.examples:
            self.reporter.send(evaluation)

    def _checkpoint(self) -> None:
        with self.stopwatch.within("saving"):
            folder = self.write_checkpoint(self.progress)
        self.reporter.send(CheckpointWritten(step=self.progress.step, folder=folder, metrics=self.progress.metrics()))

    def _take_step(self) -> None:
        began_s = time.monotonic()
        found = self.gradient.accumulate(self.progress.step)
        sums = found.loss
        grad_norm = self.optimizer.clip()
        self._require_finite(sums.loss, grad_norm)
        learning_rate = self.optimizer.step(self.progress.step)
        self.progress.step += 1
        self.progress.seen_tokens += found.tokens
        self.progress.trained_tokens += sums.scored_tokens
        self.progress.train_loss = sums.completion_loss
        self.progress.train_token_accuracy = sums.token_accuracy
        self._report(sums, grad_norm, learning_rate, found.tokens / (time.monotonic() - began_s))

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

    def _report(self, sums: LossSums, grad_norm: float, learning_rate: float, tokens_per_s: float) -> None:
        kept = RATE_KEPT if self.tokens_per_s else 0.0
        self.tokens_per_s = kept * self.tokens_per_s + (1 - kept) * tokens_per_s
        all_tokens = len(self.data.training.ids) * self.plan.n_epochs
        self.reporter.send(
            StepDone(
                step=self.progress.step,
                total_steps=self.plan.total_steps,
                epoch=self.progress.step / self.plan.steps_per_epoch,
                loss=sums.loss,
                completion_loss=sums.completion_loss,
                token_accuracy=sums.token_accuracy,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                trained_tokens=self.progress.trained_tokens,
                seen_tokens=self.progress.seen_tokens,
                tokens_per_s=self.tokens_per_s,
                eta_s=(all_tokens - self.progress.seen_tokens) / self.tokens_per_s,
                memory_bytes=peak_memory_bytes(self.model.device),
            )
        )
