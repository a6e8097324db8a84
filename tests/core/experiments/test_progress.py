"""What an experiment does next."""

from collections.abc import Sequence
from typing import Any

import pytest

from core.experiments.plan import ExperimentPlan, PlannedRun
from core.experiments.progress import (
    Choose,
    End,
    EvaluationOutcome,
    Judge,
    Prune,
    Recorded,
    RunOutcome,
    StartRuns,
    Step,
    Wait,
    chosen_factors,
    next_step,
)
from core.jobs.status import JobStatus
from tests.core.experiments.made_up import plan

SUCCEEDED, FAILED, RUNNING = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.RUNNING


def outcome(
    run: PlannedRun, status: JobStatus = SUCCEEDED, seconds: float = 60.0, loss: float | None = 0.5
) -> RunOutcome:
    name = f"{run.arm}-{run.seed}-{run.rate_factor:.2g}"
    has_ended = status in (SUCCEEDED, FAILED)
    return RunOutcome(
        run=run,
        job_id=f"ftjob-{name}",
        status=status,
        seconds=seconds if has_ended else None,
        choosing_loss=loss,
        model=f"ft:{name}" if status is SUCCEEDED else None,
    )


def step(made: ExperimentPlan, runs: Sequence[RunOutcome], **others: Any) -> Step:
    known: dict[str, Any] = {"kept": None, "choosing": None, "judging": None}
    return next_step(made, Recorded(runs=runs, **(known | others)))


def started(found: Step) -> tuple[PlannedRun, ...]:
    assert isinstance(found, StartRuns)
    return found.runs


class TestWithoutChoices:
    def test_all_arms_and_seeds_are_started_at_once(self) -> None:
        runs = started(step(plan(), []))
        assert [(run.arm, run.seed, run.rate_factor) for run in runs] == [
            (arm, seed, 1.0) for seed in (1, 2, 3) for arm in (0, 1, 2)
        ]
        assert plan().most_runs == 9

    def test_all_are_waited_for(self) -> None:
        runs = started(step(plan(), []))
        for unfinished in (RUNNING, JobStatus.QUEUED, JobStatus.PAUSED):
            assert step(plan(), [outcome(runs[0], unfinished), *map(outcome, runs[1:])]) == Wait()

    def test_the_last_end_calls_the_judge(self) -> None:
        runs = [outcome(run) for run in started(step(plan(), []))]
        found = step(plan(), runs)
        assert isinstance(found, Judge)
        assert [one.model for one in found.models] == [one.model for one in runs]
        assert found.stopped is None

    def test_an_arm_that_failed_is_judged_by_what_it_has(self) -> None:
        runs = [outcome(run, FAILED if run.arm == 1 else SUCCEEDED) for run in started(step(plan(), []))]
        found = step(plan(), runs)
        assert isinstance(found, Judge)
        assert {one.run.arm for one in found.models} == {0, 2}

    def test_where_nothing_is_left_to_compare_it_ends_and_names_a_job(self) -> None:
        runs = [outcome(run, FAILED) for run in started(step(plan(), []))]
        found = step(plan(), runs)
        assert isinstance(found, End)
        assert found.error is not None
        assert "ftjob-0-1-1" in found.error
        alone = [outcome(run, FAILED if run.arm else SUCCEEDED) for run in started(step(plan(), []))]
        assert isinstance(step(plan(), alone), Judge)  # beside the base model
        assert isinstance(step(plan(base=False), alone), End)

    def test_it_ends_as_the_judging_ends(self) -> None:
        runs = [outcome(run) for run in started(step(plan(), []))]
        assert step(plan(), runs, judging=EvaluationOutcome(RUNNING, None)) == Wait()
        assert step(plan(), runs, judging=EvaluationOutcome(SUCCEEDED, None)) == End(None)
        failed = step(plan(), runs, judging=EvaluationOutcome(FAILED, "no engine"))
        assert failed == End("the evaluation that was to judge failed: no engine")
        cancelled = step(plan(), runs, judging=EvaluationOutcome(JobStatus.CANCELLED, None))
        assert cancelled == End("the evaluation that was to judge was cancelled")


class TestTuning:
    TUNED = plan(tunes=True)

    def tried(self, losses: dict[tuple[int, int], float | None]) -> list[RunOutcome]:
        """Give the first round's outcomes; by arm and by the rate's place, other losses than 0.5."""
        runs = started(step(self.TUNED, []))
        return [outcome(run, loss=losses.get((run.arm, place % 3), 0.5)) for place, run in enumerate(runs)]

    def test_three_rates_of_each_arm_are_tried_with_one_seed(self) -> None:
        runs = started(step(self.TUNED, []))
        assert {run.seed for run in runs} == {1}
        assert [run.rate_factor for run in runs if run.arm == 1] == [pytest.approx(1 / 3), 1.0, 3.0]
        rates = [self.TUNED.spec_of(run).learning_rate for run in runs[:3]]
        assert rates == pytest.approx([1e-3 / 3, 1e-3, 3e-3])

    def test_the_best_by_the_choosing_part_goes_on_beside_the_arms_own(self) -> None:
        runs = self.tried({(0, 2): 0.4, (1, 0): 0.3, (2, 0): 0.5})
        assert chosen_factors(self.TUNED, runs) == {0: 3.0, 1: 1 / 3, 2: 1.0}
        further = started(step(self.TUNED, runs))
        assert [(run.arm, run.rate_factor) for run in further if run.seed == 2] == [
            (0, 1.0), (0, 3.0), (1, 1 / 3), (1, 1.0), (2, 1.0),
        ]  # fmt: skip
        assert {run.seed for run in further} == {2, 3}

    def test_only_models_at_a_rate_that_is_compared_are_judged(self) -> None:
        runs = self.tried({(0, 2): 0.4})
        runs += [outcome(run) for run in started(step(self.TUNED, runs))]
        found = step(self.TUNED, runs)
        assert isinstance(found, Judge)
        assert {(one.run.arm, one.run.rate_factor) for one in found.models} == {(0, 1.0), (0, 3.0), (1, 1.0), (2, 1.0)}

    def test_an_arm_of_which_nothing_was_measured_has_no_choice(self) -> None:
        runs = self.tried({(1, 0): None, (1, 1): None, (1, 2): None})
        assert set(chosen_factors(self.TUNED, runs)) == {0, 2}


class TestPruning:
    PRUNED = plan(prunes=True)

    def test_one_seed_is_scored_by_the_choosing_part_before_others_are_trained(self) -> None:
        first = [outcome(run) for run in started(step(self.PRUNED, []))]
        assert {one.run.seed for one in first} == {1}
        assert step(self.PRUNED, first) == Choose(tuple(first))
        assert step(self.PRUNED, first, choosing=EvaluationOutcome(RUNNING, None)) == Wait()
        assert step(self.PRUNED, first, choosing=EvaluationOutcome(SUCCEEDED, None)) == Prune(tuple(first))
        assert isinstance(step(self.PRUNED, first, choosing=EvaluationOutcome(FAILED, "x")), End)

    def test_only_arms_that_were_kept_go_on_and_all_are_judged(self) -> None:
        first = [outcome(run) for run in started(step(self.PRUNED, []))]
        known = {"choosing": EvaluationOutcome(SUCCEEDED, None), "kept": frozenset({0, 2})}
        further = started(step(self.PRUNED, first, **known))
        assert [(run.arm, run.seed) for run in further] == [(0, 2), (2, 2), (0, 3), (2, 3)]
        found = step(self.PRUNED, [*first, *map(outcome, further)], **known)
        assert isinstance(found, Judge)
        assert {one.run.arm for one in found.models} == {0, 1, 2}

    def test_with_one_seed_there_is_nothing_to_prune_for(self) -> None:
        made = plan(prunes=True, seeds=(4,))
        assert isinstance(step(made, [outcome(run) for run in started(step(made, []))]), Judge)


class TestBudget:
    def test_seeds_are_trained_one_by_one_as_long_as_it_holds_the_next(self) -> None:
        made = plan(budget_s=500)
        runs = [outcome(run) for run in started(step(made, []))]
        assert {one.run.seed for one in runs} == {1}
        runs += [outcome(run) for run in started(step(made, runs))]
        assert {one.run.seed for one in runs} == {1, 2}
        found = step(plan(budget_s=400), runs)
        assert isinstance(found, Judge)
        assert found.stopped == (
            "The budget of 400 s ended the training after 2 of 3 seeds: they took 360 s, and the next would have taken "
            "about 180 s."
        )
        assert isinstance(step(plan(budget_s=540), runs), StartRuns)
