import os
import subprocess
import sys

from benchmarks.serve_gpu import gains, speeds
from benchmarks.serving.steps import StepTimings
from benchmarks.training.processes import ROOT


def test_without_a_gpu_the_gpu_benchmark_says_so_and_ends() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.serve_gpu"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs a CUDA GPU" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_tokens_a_second_are_rows_through_a_steps_time() -> None:
    measured = {"graphs base 8": StepTimings([0.02, 0.04, 0.04]), "first token": StepTimings([1.0])}
    assert speeds(measured) == {"graphs base 8": 200.0}


def test_the_gain_of_graphs_is_how_much_longer_a_step_takes_without() -> None:
    measured = {
        "graphs r8 8": StepTimings([0.25]),
        "graphs prefill r16": StepTimings([0.5]),
        "eager r8 8": StepTimings([1.0, 1.0, 2.0]),
        "eager prefill r16": StepTimings([0.5]),
    }
    assert gains(measured) == {"r8 8": 4.0}
