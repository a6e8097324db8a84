from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.host.number_types import NumberTypes
from benchmarks.train import QUICK, Amount, TrainingBenchmark, make_smollm2_case, run_case
from benchmarks.training.cases import PHI_TARGETS, BenchmarkCase, choose_contestants
from benchmarks.training.measurement import MeasurementRequest
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations
from tests.benchmarks.recording import RecordingProcesses

TYPES = NumberTypes("bfloat16", 2.0)
EVERYONE, _ = choose_contestants(TYPES)


@pytest.fixture
def case(tmp_path: Path) -> BenchmarkCase:
    rows = generate(64, 2, vocabulary=512, seed=0)
    return BenchmarkCase("phi", tmp_path, tmp_path / "rows.json", rows, PHI_TARGETS, 1e-3)


def run_recorded(case: BenchmarkCase, rounds: int) -> tuple[list[MeasurementRequest], dict[str, object]]:
    processes, console = RecordingProcesses(), Console(quiet=True)
    result = run_case(TrainingBenchmark(console, processes, TYPES), console, case, rounds)
    assert processes.requests[0].trainer == "untrained"
    return processes.requests[1:], result


def test_rounds_are_interleaved_and_those_without_a_ratio_take_part_in_every_other_one(case: BenchmarkCase) -> None:
    requests, _ = run_recorded(case, 3)
    names = [(one.trainer, one.dtype) for one in EVERYONE]
    fast = [(one.trainer, one.dtype) for one in EVERYONE if one.every == 1]
    assert [(request.trainer, request.dtype) for request in requests] == [*names, *fast, *names]
    assert fast == [
        ("ours", "bfloat16"),
        ("hf_best", "bfloat16"),
        ("trl_tuned", "bfloat16"),
        ("trl_default", "bfloat16"),
        ("seed", "float32"),
    ]


def test_only_trainers_of_all_rows_are_scored_and_once(case: BenchmarkCase) -> None:
    requests, result = run_recorded(case, 2)
    assert [request.trainer for request in requests if request.is_scored] == ["ours", "hf_best", "trl_tuned"]
    assert all(request.examples == 64 for request in requests if request.is_scored)
    assert result["untrained_held_out_loss"] == 3.0


def test_every_trainer_gets_the_same_start_and_whole_steps(case: BenchmarkCase) -> None:
    requests, _ = run_recorded(case, 1)
    shared = {
        (request.base, request.rows, request.targets, request.learning_rate, request.seed) for request in requests
    }
    assert len(shared) == 1
    assert all(request.examples % request.rows_per_step == 0 for request in requests)
    assert {request.rows_per_step for request in requests if request.trainer != "seed"} == {8}


def test_the_result_holds_ratios_of_all_four_rivals_and_the_roofline(case: BenchmarkCase) -> None:
    _, result = run_recorded(case, 1)
    # all rows in 1 s against a quarter, all, a quarter and one row in 2 s
    assert result["ratios"] == {
        "hf_best": 2.0,
        "trl_tuned": 2.0,
        "trl_default": 8.0,
        "seed": 128.0,
        "roofline": 0.5,
    }


def test_each_ablation_round_switches_off_each_technique(case: BenchmarkCase) -> None:
    processes = RecordingProcesses()
    amount = Amount(ablation_rounds=2)
    rounds = TrainingBenchmark(Console(quiet=True), processes, TYPES).ablation_rounds(case, amount)
    assert [request.without for request in processes.requests] == ablations() * 2
    assert {request.examples for request in processes.requests} == {32}
    assert len(rounds) == 2


def test_missing_data_is_said_not_ignored(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    told = make_smollm2_case(tmp_path, QUICK, tmp_path, gone)
    assert isinstance(told, str)
    assert told.startswith("skipped")
    assert str(gone) in told


@pytest.mark.slow
def test_a_measured_process_trains_and_is_scored(case: BenchmarkCase, tmp_path: Path) -> None:
    from benchmarks.host.processes import measure, run_module

    base, rows_file = tmp_path / "base", tmp_path / "rows.json"
    run_module("benchmarks.training.models", "phi-tiny", str(base))
    case.rows.write(rows_file)
    real = replace(case, base=base, rows_file=rows_file)
    losses = {}
    for contestant in EVERYONE:
        found = measure(replace(real.request(contestant, is_scored=True), examples=8))
        losses[contestant.name] = found.held_out_loss
        assert found.contestant == contestant.name
        assert len(found.step_s) >= 1
        assert found.useful_tokens > found.trained_tokens > 0
    assert losses["ours in bfloat16"] == pytest.approx(losses["hf_fp32 in float32"], abs=1e-2)
    assert losses["ours in bfloat16"] == pytest.approx(losses["trl_default in bfloat16"], abs=1e-2)
