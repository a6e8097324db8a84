import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import train_gpu
from benchmarks.training.cases import PHI_TARGETS, BenchmarkCase
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations
from tests.benchmarks.recording import RecordingProcesses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> RecordingProcesses:
    recording = RecordingProcesses()
    monkeypatch.setattr(train_gpu, "measure", recording)
    return recording


@pytest.fixture
def case(tmp_path: Path) -> BenchmarkCase:
    rows = generate(train_gpu.ROWS_PER_STEP * train_gpu.STEPS, 1, vocabulary=512, seed=0)
    return BenchmarkCase("phi-2", tmp_path, tmp_path / "rows.json", rows, PHI_TARGETS, train_gpu.LEARNING_RATE)


def test_without_a_gpu_the_gpu_benchmark_says_so_and_ends() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.train_gpu"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs a CUDA GPU" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow  # it imports all that trains in a process of its own
def test_the_gpu_benchmark_needs_no_web_framework_no_database_and_no_trl() -> None:
    blocked = ("fastapi", "sqlalchemy", "celery", "trl", "datasets", "rich", "uvicorn", "structlog")
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({blocked}))",  # None there makes an import fail
        "import benchmarks.train_gpu, benchmarks.train_one, benchmarks.training.models",
    ]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], cwd=ROOT, check=True)


def test_ours_is_measured_at_each_budget_and_every_process_warms_up(
    case: BenchmarkCase, processes: RecordingProcesses
) -> None:
    result = train_gpu.run_comparison(case, 2)
    budgets = [request.token_budget for request in processes.requests if request.trainer == "ours"]
    assert budgets == list(train_gpu.BUDGETS) * 2
    assert all(request.warms_up for request in processes.requests)
    assert len(result["medians"]) == len(train_gpu.contestants())
    assert result["medians"]["ours, 4,096 tokens at once"]["rounds"] == 2


def test_rivals_take_whole_micro_batches(case: BenchmarkCase, processes: RecordingProcesses) -> None:
    train_gpu.run_comparison(case, 1)
    for request in processes.requests:
        assert request.examples % request.rows_per_step == 0
        assert request.rows_per_step % request.micro_batch_rows == 0


def test_the_ablation_switches_off_each_technique(case: BenchmarkCase, processes: RecordingProcesses) -> None:
    train_gpu.run_ablation(case, 1)
    assert [request.without for request in processes.requests] == ablations()
