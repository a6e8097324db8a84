"""Runs one measurement in a process of its own, and reads its answer."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.training.measurement import Measurement, MeasurementRequest

ROOT = Path(__file__).resolve().parents[2]
STDERR_SHOWN = 3000  # characters of a failed process's last words


def run_module(module: str, *arguments: str) -> str:
    """Run a module of this project to its end, on all cores and without the network; give what it printed.

    Raises:
        RuntimeError: it failed; the message holds the end of what it wrote to stderr.
    """
    cores = str(len(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": cores, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{module} ended with {ended.returncode}:\n{ended.stderr[-STDERR_SHOWN:]}")
    return ended.stdout


def measure(request: MeasurementRequest) -> Measurement:
    """Ask a new process for one measurement."""
    return Measurement.from_json(run_module("benchmarks.train_one", request.to_json()).splitlines()[-1])
