from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.host.processes import run_module
from benchmarks.train_together import ARMS, StepSize, TogetherCase, gains, measure, run_benchmark, run_rounds
from benchmarks.training.cases import PHI_TARGETS
from benchmarks.training.measurement import TogetherRequest, TrainedTogether
from benchmarks.training.rows import generate

GIB = 2**30
SIZE = StepSize(examples=6, rows_per_step=2, rounds=2)


def answer(request: TogetherRequest) -> TrainedTogether:
    """Take 10 s for the start, and for each doubling a tenth less than twice as long."""
    seconds = {1: 10.0, 2: 18.0, 4: 32.0, 8: 60.0}[request.arms]
    return TrainedTogether(request.arms, 100 * request.arms, 10.0, seconds, (3 + request.arms) * GIB, "float32", 0.0)


@pytest.fixture
def case(tmp_path: Path) -> TogetherCase:
    return TogetherCase("phi", tmp_path / "base", tmp_path / "rows.json", PHI_TARGETS, SIZE)


def test_rounds_are_interleaved(case: TogetherCase) -> None:
    asked: list[TogetherRequest] = []

    def record(request: TogetherRequest) -> TrainedTogether:
        asked.append(request)
        return answer(request)

    run_rounds(case, ARMS, record, lambda _: None)
    assert [request.arms for request in asked] == [*ARMS, *ARMS]
    assert {(request.examples, request.rows_per_step) for request in asked} == {(SIZE.examples, SIZE.rows_per_step)}


def test_so_many_are_compared_with_as_many_times_one(case: TogetherCase) -> None:
    found = gains(run_rounds(case, ARMS, answer, lambda _: None))
    assert [one.arms for one in found] == list(ARMS)
    assert [one.times_faster for one in found] == pytest.approx([1, 20 / 18, 40 / 32, 80 / 60])
    assert [one.times_faster_with_start for one in found] == pytest.approx([1, 40 / 28, 80 / 42, 160 / 70])
    assert [one.times_the_memory for one in found] == pytest.approx([1, 5 / 4, 7 / 4, 11 / 4])


def test_the_result_says_what_was_measured(case: TogetherCase) -> None:
    result = run_benchmark([case], ARMS, answer, Console(quiet=True))
    assert [one["arms"] for one in result["phi"]["gains"]] == list(ARMS)
    assert len(result["phi"]["rounds"]) == 2


@pytest.mark.slow
def test_a_measured_process_trains_all_of_them(case: TogetherCase) -> None:
    run_module("benchmarks.training.models", "phi-tiny", str(case.base))
    rows = generate(SIZE.examples, 1, vocabulary=512, seed=0)
    rows.write(case.rows_file)
    found = measure(case.request(3))
    assert (found.arms, found.tokens) == (3, 3 * sum(len(row.ids) for row in rows.training))
    assert found.seconds > 0
    assert found.peak_memory_bytes > 2**20
