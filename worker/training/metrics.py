"""The numbers of a run: where it stands, and what a step's report says of its loss, speed and efficiency.

How losses are summed is ``worker.training.model.loss``; what becomes of a report is its reader's matter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch

from worker.trainer_process.messages import Evaluated, StepDone, StepSeconds
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.measure.early_stopping import Standing
from worker.training.measure.flops import Amounts, TrainingFlops, count_flops
from worker.training.model.lora import LoraModel
from worker.training.model.memory import peak_memory_bytes
from worker.training.process.ranks import ALONE, Ranks
from worker.training.step import StepSums

RATE_KEPT: Final = 0.9  # how much of what the rates are taken from outlives a step


@dataclass
class Progress:
    """Where a run stands; a checkpoint holds all of it."""

    step: int = 0
    seen_tokens: int = 0
    trained_tokens: int = 0
    padding_tokens: int = 0
    train_loss: float | None = None  # of the last step, per completion token; None: it had none with a weight
    train_token_accuracy: float | None = None
    evaluation: Evaluated | None = None  # the last one
    standing: Standing = field(default_factory=Standing)

    def add(self, sums: StepSums, padding_tokens: int) -> None:
        """Count one more step."""
        self.step += 1
        self.seen_tokens += sums.tokens
        self.trained_tokens += sums.loss.scored_tokens
        self.padding_tokens += padding_tokens
        self.train_loss = sums.loss.completion_loss
        self.train_token_accuracy = sums.loss.token_accuracy

    def metrics(self) -> dict[str, float | None]:
        """Give the present step's numbers under OpenAI's names; an older evaluation's are left out."""
        metrics: dict[str, float | None] = {
            "step": float(self.step),
            "train_loss": self.train_loss,
            "train_mean_token_accuracy": self.train_token_accuracy,
        }
        if self.evaluation is not None and self.evaluation.step == self.step:
            metrics |= metrics_of(self.evaluation)
        return metrics


def metrics_of(evaluation: Evaluated) -> dict[str, float | None]:
    """Give an evaluation's numbers under OpenAI's names; None where no token was scored."""
    metrics: dict[str, float | None] = {"step": float(evaluation.step)}
    for prefix in ("valid", "full_valid"):
        metrics[f"{prefix}_loss"] = evaluation.loss
        metrics[f"{prefix}_mean_token_accuracy"] = evaluation.token_accuracy
    return metrics | evaluation.named_scores


@dataclass
class TrainingThroughput:
    """Work per second over the last steps, of which there must be one; an older one counts less with each that follows.

    The first step also sets up what later ones find ready, so it counts only until there is a second.
    """

    steps: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, flops: int, seconds: float) -> None:
        kept = RATE_KEPT if self.steps > 1 else 0.0
        self.steps += 1
        self.tokens = kept * self.tokens + tokens
        self.flops = kept * self.flops + flops
        self.seconds = kept * self.seconds + seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds


@dataclass
class Meter:
    """Measures steps and writes their reports. Rates are this process's own: after a resume they start anew."""

    training: ExampleSet
    plan: TrainingPlan
    flops: TrainingFlops | None  # None: not known for this architecture, and neither is the share of the peak
    peak_flops_per_s: float  # of matrix products here, all ranks together
    device: torch.device
    throughput: TrainingThroughput = field(default_factory=TrainingThroughput)

    @classmethod
    def of(
        cls,
        model: LoraModel,
        training: ExampleSet,
        plan: TrainingPlan,
        probe: Callable[[], float],
        ranks: Ranks = ALONE,
    ) -> "Meter":
        """Count the model's operations; ``probe`` gives how many of them a second this machine has, if need be."""
        flops = count_flops(model)
        peak_flops_per_s = 0.0 if flops is None else ranks.size * probe()
        return cls(training, plan, flops, peak_flops_per_s, model.device)

    def measure(self, progress: Progress, sums: StepSums, *, grad_norm: float, learning_rate: float) -> StepDone:
        """Add a step that was just taken to the progress, and report on it."""
        amounts = Amounts.of(self.training, self.plan.members_of(progress.step))
        seconds = sums.times.total_s
        self.throughput.add(sums.tokens, 0 if self.flops is None else self.flops.of(amounts), seconds)
        progress.add(sums, padding_tokens=sums.inputs - amounts.inputs)
        all_tokens = len(self.training.ids) * self.plan.n_epochs
        loss = sums.loss.loss
        assert loss is not None  # a step without a weight is refused before its gradient
        return StepDone(
            step=progress.step,
            total_steps=self.plan.total_steps,
            epoch=progress.step / self.plan.steps_per_epoch,
            loss=loss,
            completion_loss=sums.loss.completion_loss,
            prompt_loss=sums.loss.prompt_loss,
            token_accuracy=sums.loss.token_accuracy,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            trained_tokens=progress.trained_tokens,
            seen_tokens=progress.seen_tokens,
            padding_tokens=progress.padding_tokens,
            tokens_per_s=self.throughput.tokens_per_s,
            mfu=None if self.flops is None else self.throughput.flops_per_s / self.peak_flops_per_s,
            seconds=StepSeconds(total=seconds, **sums.times.read()),
            eta_s=(all_tokens - progress.seen_tokens) / self.throughput.tokens_per_s,
            memory_bytes=peak_memory_bytes(self.device),
        )
