from pathlib import Path
from typing import Any

import pytest

from core.base_models.shape import ModelShape, read_shape
from core.estimates.estimate import (
    EFFICIENCY,
    KERNELS_EFFICIENCY,
    Measured,
    PastRun,
    RunWork,
    evaluated_after,
    seconds_of,
    speed_of_cores,
    speed_of_jobs,
    work_of,
)
from core.jobs.spec import EVALUATIONS, LoraSpec
from tests.harness.fake_trainer import MEASURED
from tests.harness.models.tiny_shapes import TINY_LLAMA, write_shapes

LORA = LoraSpec(rank=4, target_modules=("q_proj",))
ADAPTER_PARAMETERS = 4 * (16 + 16)


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    write_shapes(tmp_path, TINY_LLAMA)
    return read_shape(tmp_path)


def past(job_id: str, seconds: dict[str, float] | None = None, **changes: Any) -> PastRun:
    took = MEASURED.seconds.model_copy(update=seconds or {})
    return PastRun(job_id, LORA, MEASURED.model_copy(update={"seconds": took, **changes}), EVALUATIONS)


def test_frozen_weights_cost_two_products_in_training_and_one_in_evaluation(shape: ModelShape) -> None:
    work = work_of(shape, LORA, seen_tokens=100, trained_tokens=40, evaluated_tokens=50, examples=7, evaluations=5)
    head = 320 * 16
    assert work.training_flops == 100 * (4 * shape.linear_parameters + 6 * ADAPTER_PARAMETERS) + 40 * 4 * head
    assert work.evaluating_flops == 50 * 2 * (shape.linear_parameters + ADAPTER_PARAMETERS + 0.4 * head)


def test_a_run_like_the_one_learnt_from_takes_as_long(shape: ModelShape) -> None:
    run = past("ftjob-1", {"evaluating": 3.0, "sampling": 1.5}, evaluated_tokens=10)
    speed = speed_of_jobs(shape, [run])
    assert speed is not None
    measured = run.measured
    work = work_of(
        shape,
        LORA,
        seen_tokens=measured.seen_tokens,
        trained_tokens=measured.trained_tokens,
        evaluated_tokens=measured.evaluated_tokens,
        examples=measured.examples,
        evaluations=len(evaluated_after(measured.steps)),
    )
    assert seconds_of(work, speed).model_dump(exclude={"total"}) == pytest.approx(
        measured.seconds.model_dump(exclude={"total"})
    )


def test_twice_the_tokens_take_twice_the_training(shape: ModelShape) -> None:
    speed = speed_of_jobs(shape, [past("ftjob-1")])
    assert speed is not None
    one, two = (
        seconds_of(
            work_of(shape, LORA, seen_tokens=n, trained_tokens=n, evaluated_tokens=0, examples=1, evaluations=0), speed
        )
        for n in (100, 200)
    )
    assert two.training == pytest.approx(2 * one.training)
    assert two.loading == one.loading


def test_one_slow_run_among_three_does_not_count(shape: ModelShape) -> None:
    runs = [past("ftjob-1"), past("ftjob-2", {"training": 2000.0, "loading": 900.0}), past("ftjob-3")]
    speed, usual = speed_of_jobs(shape, runs), speed_of_jobs(shape, runs[:1])
    assert speed is not None
    assert usual is not None
    assert (speed.training_flops_per_s, speed.loading_s) == (usual.training_flops_per_s, usual.loading_s)
    assert speed.basis.jobs == ("ftjob-1", "ftjob-2", "ftjob-3")


def test_runs_that_shared_their_trainer_teach_nothing(shape: ModelShape) -> None:
    together = past("ftjob-2", {"training": 0.001}, together=3)
    assert speed_of_jobs(shape, [together]) is None
    assert speed_of_jobs(shape, [together, past("ftjob-1")]) == speed_of_jobs(shape, [past("ftjob-1")])


def test_resumed_runs_teach_nothing(shape: ModelShape) -> None:
    resumed = past("ftjob-2", {"training": 0.001}, resumed_from_step=3)
    assert speed_of_jobs(shape, [resumed]) is None
    speed = speed_of_jobs(shape, [resumed, past("ftjob-1")])
    assert speed is not None
    assert speed.basis.jobs == ("ftjob-1",)


def test_an_assumed_speed_is_stated(shape: ModelShape) -> None:
    basis = speed_of_cores(shape, "float32", cores=4, step_tokens=200).basis
    assert basis.kind == "roofline"
    assert basis.flops_per_s == pytest.approx(EFFICIENCY * 4 * 90e9)
    assert "9e+10 FLOP/s in float32 for each of 4 cores" in basis.explanation


def test_a_short_run_is_evaluated_less_often() -> None:
    assert evaluated_after(10) == {0, 2, 5, 8, 10}
    assert evaluated_after(1) == {0, 1}
    assert evaluated_after(0) == {0}


def test_a_result_without_figures_is_no_measurement() -> None:
    assert Measured.of_result(None) is None
    assert Measured.of_result({"steps": 4}) is None
    assert Measured.of_result({"measured": MEASURED.model_dump(mode="json")}) == MEASURED


def test_where_no_run_had_samples_their_time_is_assumed_rather_than_none(shape: ModelShape) -> None:
    learnt, assumed = (
        speed_of_jobs(shape, [past("ftjob-1", {"sampling": 0.0})]),
        speed_of_cores(shape, "float32", 4, step_tokens=200),
    )
    assert learnt is not None
    assert learnt.sampling_s_per_evaluation == assumed.sampling_s_per_evaluation > 0


def test_kernels_are_assumed_to_reach_more_of_the_peak_in_larger_steps(shape: ModelShape) -> None:
    small, large = (speed_of_cores(shape, "float32", 2, step_tokens=n, has_kernels=True) for n in (220, 2000))
    assert small.training_flops_per_s == pytest.approx(57e9, rel=0.02)  # as was measured
    assert small.training_flops_per_s < large.training_flops_per_s < KERNELS_EFFICIENCY * 2 * 90e9
    assert small.evaluating_flops_per_s == large.evaluating_flops_per_s


def test_a_run_that_is_evaluated_twice_as_often_is_assumed_to_answer_twice_as_long(shape: ModelShape) -> None:
    runs = [past("ftjob-1", {"sampling": 10.0})]
    speed = speed_of_jobs(shape, runs)
    assert speed is not None
    took = [
        seconds_of(RunWork(examples=1, training_flops=1.0, evaluating_flops=1.0, evaluations=n), speed).sampling
        for n in (2, 4)
    ]
    assert took[1] == pytest.approx(2 * took[0])
