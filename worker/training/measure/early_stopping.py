"""Which evaluation was the best so far, and whether a run still has reason to go on.

Knows numbers only; where the best checkpoint's adapter lies is ``worker.training.output.checkpoint``.
"""

from collections.abc import Iterator

from core.scoring.registry import METRICS
from core.values import Frozen
from worker.trainer_process.messages import Evaluated


class Standing(Frozen):
    """The best evaluation after a step, by loss or by a metric; what came before the first step is nobody's result.

    A checkpoint holds it, so that a resumed run stops at the same step.
    """

    best: Evaluated | None = None
    without_improvement: int = 0  # evaluations since

    def after(self, evaluation: Evaluated, by: str | None = None) -> "Standing":
        """Take one more evaluation into account; an equal score is no improvement, and one of nothing is no score.

        Args:
            by: the metric that decides; None: the loss.
        """
        found = _value(evaluation, by)
        if found is None:
            return self
        best = None if self.best is None else _value(self.best, by)
        if best is None or _is_better(found, best, by):
            return Standing(best=evaluation)
        return Standing(best=self.best, without_improvement=self.without_improvement + 1)

    def is_exhausted(self, patience: int | None) -> bool:
        """Tell whether ``patience`` evaluations in a row brought nothing; None waits for ever."""
        return patience is not None and self.without_improvement >= patience


def describe_ending(
    standing: Standing, step: int, total_steps: int, *, publishes_best: bool, by: str | None = None
) -> Iterator[str]:
    """Say what a person should know of a run that ended after ``step`` steps, if there is anything."""
    best = None if standing.best is None else _value(standing.best, by)
    if standing.best is None or best is None:
        return
    name = by or "validation loss"
    is_higher = by is not None and METRICS[by].better == "higher"
    if step < total_steps:
        yield (
            f"Stopped early, after step {step} of {total_steps}: the last {standing.without_improvement} evaluations "
            f"brought no {name} {'over' if is_higher else 'under'} the {best:.4f} of step {standing.best.step}"
        )
    if publishes_best and standing.best.step != step:
        yield (
            f"The adapter of step {standing.best.step} is the result: its {name}, {best:.4f}, is the "
            f"{'highest' if is_higher else 'lowest'}"
        )


def _value(evaluation: Evaluated, by: str | None) -> float | None:
    return evaluation.loss if by is None else evaluation.scores.get(by)


def _is_better(found: float, best: float, by: str | None) -> bool:
    return found > best if by is not None and METRICS[by].better == "higher" else found < best
