"""What an experiment does next, as a function of its plan and of what became of its runs. It remembers nothing.

Whoever calls this may die at any moment and another may call it again: the answer follows from what is recorded, so
all that has to be kept is recorded in one transaction with what was done about it (``core.store.experiments``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.experiments.plan import RATE_FACTORS, ExperimentPlan, PlannedRun
from core.jobs.status import TERMINAL, JobStatus


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run so far.

    Attributes:
        seconds: from its start to its end; None before.
        choosing_loss: nats per answer token on the held-out rows of its last evaluation, which are the choosing part
            where there is one; None where nothing was measured.
        model: what it made; None where it made nothing.
        judged_as: the model whose scores are this one's, once it was asked to be judged.
    """

    run: PlannedRun
    job_id: str
    status: JobStatus
    seconds: float | None
    choosing_loss: float | None
    model: str | None
    judged_as: str | None = None


@dataclass(frozen=True)
class EvaluationOutcome:
    """An evaluation that the experiment asked for; ``error`` says why it failed."""

    status: JobStatus
    error: str | None


@dataclass(frozen=True)
class Wait:
    """Something is under way."""


@dataclass(frozen=True)
class StartRuns:
    """These runs come next."""

    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Choose:
    """One model of each arm is to be scored by the choosing part, to see which arms go on."""

    models: tuple[RunOutcome, ...]


@dataclass(frozen=True)
class Prune:
    """The choosing part's scores are there: find out by them which arms go on."""

    models: tuple[RunOutcome, ...]


@dataclass(frozen=True)
class Judge:
    """All runs have ended, and these models are to be judged.

    ``stopped`` says why not all seeds were trained; None where they were.
    """

    models: tuple[RunOutcome, ...]
    stopped: str | None


@dataclass(frozen=True)
class End:
    """Nothing is left to be done. ``error`` None: there is a report."""

    error: str | None


Step = Wait | StartRuns | Choose | Prune | Judge | End


@dataclass(frozen=True)
class Recorded:
    """What is known of an experiment.

    Attributes:
        kept: the arms that go on, by their places; None: nothing was pruned yet.
        choosing, judging: its evaluations; None: not asked for yet.
    """

    runs: Sequence[RunOutcome]
    kept: frozenset[int] | None
    choosing: EvaluationOutcome | None
    judging: EvaluationOutcome | None


def next_step(plan: ExperimentPlan, recorded: Recorded) -> Step:
    """Say what is to be done now."""
    if recorded.judging is not None:
        return _end(recorded.judging, "the evaluation that was to judge")
    if not recorded.runs:
        return StartRuns(plan.first_round())
    if any(outcome.status not in TERMINAL for outcome in recorded.runs):
        return Wait()
    begun = {outcome.run.seed for outcome in recorded.runs}
    later = [seed for seed in plan.seeds if seed not in begun]
    if plan.prunes and later and recorded.kept is None:
        step = _choose(plan, recorded)
        if step is not None:
            return step
    stopped = None
    if later:
        seeds = later[:1] if plan.budget_s is not None else later
        runs = _further(plan, recorded, seeds)
        stopped = _over_budget(plan, recorded.runs, runs)
        if runs and stopped is None:
            return StartRuns(runs)
    return _judge(plan, recorded, stopped)


def chosen_factors(plan: ExperimentPlan, runs: Sequence[RunOutcome]) -> Mapping[int, float]:
    """Give the rate, as a factor, of each arm that has one which was better than others; ties go to its own rate."""
    if not plan.tunes:
        return {}
    chosen = {}
    for arm in range(len(plan.arms)):
        losses = {
            outcome.run.rate_factor: outcome.choosing_loss
            for outcome in runs
            if outcome.run.arm == arm and outcome.run.seed == plan.seeds[0] and outcome.choosing_loss is not None
        }
        if losses:
            chosen[arm] = min(losses, key=lambda factor: (losses[factor], abs(factor - 1.0), factor))
    return chosen


def judged_runs(plan: ExperimentPlan, recorded: Recorded) -> tuple[RunOutcome, ...]:
    """Give the runs whose models are judged: at each arm's own rate, and at the one that was chosen."""
    factors = chosen_factors(plan, recorded.runs)
    return tuple(
        outcome
        for outcome in recorded.runs
        if outcome.model is not None and outcome.run.rate_factor in (1.0, factors.get(outcome.run.arm, 1.0))
    )


def _end(evaluation: EvaluationOutcome, what: str) -> Step:
    if evaluation.status not in TERMINAL:
        return Wait()
    if evaluation.status is JobStatus.SUCCEEDED:
        return End(None)
    if evaluation.status is JobStatus.CANCELLED:
        return End(f"{what} was cancelled")
    return End(f"{what} failed: {evaluation.error}")


def _choose(plan: ExperimentPlan, recorded: Recorded) -> Step | None:
    """Have arms chosen that go on; None where there are not two to choose from."""
    if recorded.choosing is None or recorded.choosing.status is JobStatus.SUCCEEDED:
        factors = chosen_factors(plan, recorded.runs)
        models = tuple(
            outcome
            for outcome in recorded.runs
            if outcome.model is not None and outcome.run.rate_factor == factors.get(outcome.run.arm, 1.0)
        )
        if len(models) < 2:
            return None
        return Choose(models) if recorded.choosing is None else Prune(models)
    return _end(recorded.choosing, "the evaluation that was to choose the arms that go on")


def _further(plan: ExperimentPlan, recorded: Recorded, seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
    """Give the next seeds' runs of the arms that have a model and were not pruned."""
    factors = chosen_factors(plan, recorded.runs)
    arms = sorted({outcome.run.arm for outcome in recorded.runs if outcome.model is not None})
    going_on = [arm for arm in arms if recorded.kept is None or arm in recorded.kept]
    return tuple(
        PlannedRun(arm=arm, seed=seed, rate_factor=factor)
        for seed in seeds
        for arm in going_on
        for factor in sorted({1.0, factors.get(arm, 1.0)})
    )


def _over_budget(plan: ExperimentPlan, ended: Sequence[RunOutcome], runs: Sequence[PlannedRun]) -> str | None:
    """Say why the budget does not hold the next runs, if it does not; what they take is what those before them took."""
    if plan.budget_s is None:
        return None
    took = [outcome.seconds for outcome in ended if outcome.seconds is not None]
    spent, needed = sum(took), len(runs) * (fmean(took) if took else 0.0)
    if spent + needed <= plan.budget_s:
        return None
    trained = len({outcome.run.seed for outcome in ended})
    return (
        f"The budget of {plan.budget_s:,} s ended the training after {trained} of {len(plan.seeds)} seeds: they took "
        f"{spent:,.0f} s, and the next would have taken about {needed:,.0f} s."
    )


def _judge(plan: ExperimentPlan, recorded: Recorded, stopped: str | None) -> Step:
    models = judged_runs(plan, recorded)
    arms = {outcome.run.arm for outcome in models}
    if len(arms) + plan.base < 2 or not arms:
        failed = next((outcome.job_id for outcome in recorded.runs if outcome.model is None), None)
        return End(f"there are not two arms left to compare; see why job {failed} made no model")
    return Judge(models, stopped)


assert 1.0 in RATE_FACTORS  # an arm's own rate is among those that are tried, so its run is not trained twice
