import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.train import QUICK, Amount, Run, make_smollm2_case, run_case
from benchmarks.training.cases import CONTESTANTS, PHI_TARGETS, Case
from benchmarks.training.measurement import Measured, Request
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations

ROOT = Path(__file__).resolve().parents[2]


class RecordingProcesses:
    """Answers each request at once, and remembers it; ours takes 1 s for its rows, others 2 s."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Measured:
        self.requests.append(request)
        return Measured(
            trainer=request.trainer,
            without=request.without,
            examples=request.examples,
            useful_tokens=100 * request.examples,
            trained_tokens=50 * request.examples,
            step_s=(1.0 if request.trainer == "ours" else 2.0,),
            startup_s=1.0,
            peak_memory_bytes=2**20,
            load=0.0,
            held_out_loss=3.0 if request.is_scored else None,
            roofline_s=0.5 if request.trainer == "ours" else None,
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rows = generate(64, 2, vocabulary=512, seed=0)
    return Case("phi", tmp_path, tmp_path / "rows.json", rows, PHI_TARGETS, 1e-3)


def run_recorded(case: Case, rounds: int) -> tuple[list[Request], dict[str, object]]:
    processes, console = RecordingProcesses(), Console(quiet=True)
    result = run_case(Run(console, processes), console, case, rounds)
    assert processes.requests[0].trainer == "untrained"
    return processes.requests[1:], result


def test_rounds_are_interleaved_and_slow_trainers_take_part_in_every_other_one(case: Case) -> None:
    requests, _ = run_recorded(case, 3)
    names = [contestant.trainer for contestant in CONTESTANTS]
    fast = [contestant.trainer for contestant in CONTESTANTS if contestant.every == 1]
    assert [request.trainer for request in requests] == [*names, *fast, *names]
    assert {"ours", "hf_best", "trl_tuned"} == set(fast)


def test_only_trainers_of_all_rows_are_scored_and_once(case: Case) -> None:
    requests, result = run_recorded(case, 2)
    assert [request.trainer for request in requests if request.is_scored] == ["ours", "hf_best", "trl_tuned"]
    assert all(request.examples == 64 for request in requests if request.is_scored)
    assert result["untrained_held_out_loss"] == 3.0


def test_every_trainer_gets_the_same_start_and_whole_steps(case: Case) -> None:
    requests, _ = run_recorded(case, 1)
    shared = {
        (request.base, request.rows, request.targets, request.learning_rate, request.seed) for request in requests
    }
    assert len(shared) == 1
    assert all(request.examples % request.rows_per_step == 0 for request in requests)
    assert {request.rows_per_step for request in requests if request.trainer != "seed"} == {8}


def test_the_result_holds_ratios_of_all_four_rivals_and_the_roofline(case: Case) -> None:
    _, result = run_recorded(case, 1)
    # all rows in 1 s against a quarter, all, a quarter and one row in 2 s
    assert result["ratios"] == {
        "hf_best": 2.0,
        "trl_tuned": 2.0,
        "trl_default": 8.0,
        "seed": 128.0,
        "roofline": 0.5,
    }


def test_each_ablation_round_switches_off_each_technique(case: Case) -> None:
    processes = RecordingProcesses()
    amount = Amount(ablation_rounds=2)
    rounds = Run(Console(quiet=True), processes).ablation_rounds(case, amount)
    assert [request.without for request in processes.requests] == ablations() * 2
    assert {request.examples for request in processes.requests} == {32}
    assert len(rounds) == 2


def test_missing_data_is_said_not_ignored(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    told = make_smollm2_case(tmp_path, QUICK, tmp_path, gone)
    assert isinstance(told, str)
    assert told.startswith("skipped")
    assert str(gone) in told


def test_without_a_gpu_the_gpu_benchmark_says_so_and_ends() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.train_gpu"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs a CUDA GPU" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_gpu_benchmark_needs_no_web_framework_no_database_and_no_trl() -> None:
    blocked = ("fastapi", "sqlalchemy", "celery", "trl", "datasets", "rich", "uvicorn", "structlog")
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({blocked}))",  # None there makes an import fail
        "import benchmarks.train_gpu, benchmarks.train_one, benchmarks.training.models",
    ]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_measured_process_trains_and_is_scored(case: Case, tmp_path: Path) -> None:
    from benchmarks.training.processes import measure, run_module

    base, rows_file = tmp_path / "base", tmp_path / "rows.json"
    run_module("benchmarks.training.models", "phi-tiny", str(base))
    case.rows.write(rows_file)
    real = replace(case, base=base, rows_file=rows_file)
    losses = {}
    for contestant in CONTESTANTS:
        found = measure(replace(real.request(contestant, is_scored=True), examples=8))
        losses[contestant.trainer] = found.held_out_loss
        assert len(found.step_s) >= 1
        assert found.useful_tokens > found.trained_tokens > 0
    assert losses["ours"] == pytest.approx(losses["hf_fp32"], abs=1e-2)
    assert losses["ours"] == pytest.approx(losses["trl_default"], abs=1e-2)
