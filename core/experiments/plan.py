"""What an experiment is going to do, settled before it starts: its arms as whole jobs, seeds, rows and metrics.

The plan is stored with the experiment, and all that happens later follows from it and from what became of its runs:
see ``core.experiments.progress``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from core.estimates.estimate import Estimate, QueuePlace
from core.evaluations.spec import EvaluationSpec
from core.jobs.spec import JobSpec
from core.values import Frozen

# "Tuned": of its own rate, a third and three times. The loss is divided by the summed weight, so an arm that gives
# weight to prompts moves less for each token of an answer, and equal rates alone would not be a fair comparison.
RATE_FACTORS: Final = (1 / 3, 1.0, 3.0)
_SHAPE: Final = {"rank", "target_modules", "use_dora"}  # of a LoRA, what decides which weights it has


class PlannedArm(Frozen):
    """An arm as the job that it is, but for seeds and rates.

    Attributes:
        fields: what it changes of the job that all arms share.
        requested: its job as it would be asked for.
        estimate: of one run; None where none can be given.
    """

    name: str
    fields: dict[str, Any]
    spec: JobSpec
    requested: dict[str, Any]
    estimate: Estimate | None


class PlannedRun(Frozen):
    """One training of an arm: by its place in the plan, a seed, and its learning rate as a factor of the arm's own."""

    arm: int
    seed: int
    rate_factor: float = 1.0


class RowCounts(Frozen):
    """How many rows the parts have: of those to judge by, the ones that are asked. ``choose`` None: none are needed."""

    train: int
    choose: int | None
    judge: int


class ExperimentPlan(Frozen):
    """All that was settled.

    Attributes:
        base: whether the base model is judged beside the arms.
        judging: the evaluation that verdicts go by, but for its models; ``choosing``, the one by which arms are pruned
            before, None where none are.
        different_rows: prompts among the rows that are judged by.
        notes: what does not keep the experiment from being made, and whoever reads its report must know.
    """

    base_model: str
    arms: tuple[PlannedArm, ...]
    seeds: tuple[int, ...]
    base: bool
    primary_metric: str
    metrics: tuple[str, ...]
    margin: float | None
    judging: EvaluationSpec
    choosing: EvaluationSpec | None
    rows: RowCounts
    different_rows: int
    tunes: bool
    prunes: bool
    budget_s: int | None
    notes: tuple[str, ...]

    def spec_of(self, run: PlannedRun) -> JobSpec:
        """Give a run's job."""
        spec = self.arms[run.arm].spec
        return spec.model_copy(
            update={
                "seed": run.seed,
                "learning_rate": spec.learning_rate * run.rate_factor,
                "learning_rate_multiplier": spec.learning_rate_multiplier * run.rate_factor,
            }
        )

    def first_round(self) -> tuple[PlannedRun, ...]:
        """Give the runs that need no other's result: one seed where something is decided by it, else all."""
        seeds = self.seeds[:1] if self.tunes or self.prunes or self.budget_s is not None else self.seeds
        factors = RATE_FACTORS if self.tunes else (1.0,)
        return tuple(
            PlannedRun(arm=arm, seed=seed, rate_factor=factor)
            for seed in seeds
            for arm in range(len(self.arms))
            for factor in factors
        )

    def later_rounds(self) -> tuple[PlannedRun, ...]:
        """Give the runs of the other seeds at most: of a tuned arm two, whose chosen rate is not known yet."""
        begun = {run.seed for run in self.first_round()}
        factors = (1.0, RATE_FACTORS[0]) if self.tunes else (1.0,)
        return tuple(
            PlannedRun(arm=arm, seed=seed, rate_factor=factor)
            for seed in self.seeds
            if seed not in begun
            for arm in range(len(self.arms))
            for factor in factors
        )

    @property
    def most_runs(self) -> int:
        """How many there can be at most."""
        return len(self.first_round()) + len(self.later_rounds())

    def estimated_s(self, runs: Iterable[PlannedRun]) -> float | None:
        """Add up what runs are expected to take; None where it is not known of one of them."""
        total = 0.0
        for run in runs:
            estimate = self.arms[run.arm].estimate
            if estimate is None or estimate.seconds is None:
                return None
            total += estimate.seconds.total
        return total


class TotalEstimate(Frozen):
    """What an experiment is expected to take, before it starts.

    Attributes:
        runs: at most, as far as they are known now.
        training_seconds: of all of them, one after another; None: not known.
        queue: where its first run would stand.
        judging: how many models answer how many rows.
    """

    runs: int
    training_seconds: float | None
    queue: QueuePlace | None
    judged_models: int
    judged_rows: int


def estimate_total(plan: ExperimentPlan) -> TotalEstimate:
    """Add up what the plan's runs take, one after another."""
    everything = (*plan.first_round(), *plan.later_rounds())  # which rate is chosen does not change what it takes
    queues = [arm.estimate.queue for arm in plan.arms if arm.estimate is not None]
    tuned = len(plan.arms) * len(plan.seeds) if plan.tunes else 0
    return TotalEstimate(
        runs=plan.most_runs,
        training_seconds=plan.estimated_s(everything),
        queue=queues[0] if queues else None,
        judged_models=len(plan.arms) * len(plan.seeds) + tuned + plan.base,
        judged_rows=plan.rows.judge,
    )


def notes_on(arms: Sequence[PlannedArm]) -> tuple[str, ...]:
    """Say where arms do not see the same: they may be compared, and whoever reads the verdict should know."""
    known = {arm.name: arm.estimate for arm in arms if arm.estimate is not None}
    about = "about " if any(estimate.sampled for estimate in known.values()) else ""
    notes = []
    for what in ("examples", "steps"):
        values = {name: getattr(estimate, what) for name, estimate in known.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {about}{value:,}" for name, value in values.items())
            notes.append(f"The arms do not train on the same number of {what}: {listed}.")
    if len({arm.spec.lora.model_dump_json(include=_SHAPE) for arm in arms}) > 1:
        notes.append("The arms' adapters differ in shape, so they do not start from the same weights.")
    if len({arm.spec.continue_from for arm in arms}) > 1:
        notes.append("The arms do not go on from the same adapter, so they do not start from the same weights.")
    return tuple(notes)


def notes_on_rows(judging: EvaluationSpec) -> tuple[str, ...]:
    """Say which rows to be judged by are not asked, and of what nobody knows whether it was trained on them."""
    notes = []
    if judging.too_long:
        notes.append(
            f"{judging.too_long:,} rows to be judged by are left out, as they are longer than max_length, "
            f"{judging.max_length:,}."
        )
    if judging.unchecked_models:
        notes.append(
            f"What {', '.join(judging.unchecked_models)} was trained on is not known any more, so rows to be judged by "
            "may be among it."
        )
    return tuple(notes)
