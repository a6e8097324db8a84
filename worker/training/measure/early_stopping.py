"""Which evaluation was the best so far, and whether a run still has reason to go on.

Knows numbers only; where the best checkpoint's adapter lies is ``worker.training.output.checkpoint``.
"""

from collections.abc import Iterator

from core.values import Frozen
from worker.trainer_process.messages import Evaluated


class Standing(Frozen):
    """The best evaluation after a step, the lowest loss; what came before the first step is nobody's result.

    A checkpoint holds it, so that a resumed run stops at the same step.
    """

    best: Evaluated | None = None
    without_improvement: int = 0  # evaluations since

    def after(self, evaluation: Evaluated) -> "Standing":
        """Take one more evaluation into account; an equal loss is no improvement, and one of nothing is no loss."""
        if evaluation.loss is None:
            return self
        if self.best is None or self.best.loss is None or evaluation.loss < self.best.loss:
            return Standing(best=evaluation)
        return Standing(best=self.best, without_improvement=self.without_improvement + 1)

    def is_exhausted(self, patience: int | None) -> bool:
        """Tell whether ``patience`` evaluations in a row brought nothing; None waits for ever."""
        return patience is not None and self.without_improvement >= patience


def describe_ending(standing: Standing, step: int, total_steps: int, *, publishes_best: bool) -> Iterator[str]:
    """Say what a person should know of a run that ended after ``step`` steps, if there is anything."""
    best = standing.best
    if best is None or best.loss is None:
        return
    if step < total_steps:
        yield (
            f"Stopped early, after step {step} of {total_steps}: the last {standing.without_improvement} evaluations "
            f"brought no validation loss under the {best.loss:.4f} of step {best.step}"
        )
    if publishes_best and best.step != step:
        yield f"The adapter of step {best.step} is the result: its validation loss, {best.loss:.4f}, is the lowest"
