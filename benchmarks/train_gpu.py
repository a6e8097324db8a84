"""The comparison of ``benchmarks.train`` on one CUDA GPU, with a Phi-2 of random weights at its full size.

``python -m benchmarks.train_gpu`` needs torch, transformers and peft, and what ``worker.training`` imports; rivals
take part where they can be imported. Prints JSON: a line for each measurement, and the medians at the end.
"""

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.training import machine
from benchmarks.training.cases import PHI_TARGETS, SEED, BenchmarkCase, TrainerContestant
from benchmarks.training.measurement import Measurement
from benchmarks.training.processes import measure, run_module
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations, summarise, summarise_ablations

SHAPE, VOCABULARY = "phi-2", 51_200
LEARNING_RATE: Final = 2e-4
ROWS_PER_STEP, STEPS = 512, 2  # 80,000 tokens in a step, more than the largest budget
BUDGETS: Final = (4096, 16_384, 32_768)  # tokens of a micro-batch of ours
HELD_OUT: Final = 16
AT_ONCE: Final = 16  # rows of a rival's micro-batch: the longest ones fit into 80 GB then

OURS: Final = tuple(
    TrainerContestant("ours", f"ours, {budget:,} tokens at once", rows_per_step=ROWS_PER_STEP, token_budget=budget)
    for budget in BUDGETS
)
ABLATED: Final = OURS[1]
HF: Final = (
    TrainerContestant("hf_best", "HF Trainer, tuned", rows_per_step=ROWS_PER_STEP, rows_at_once=AT_ONCE),
    TrainerContestant(
        "seed",
        "HF Trainer: fp32, padded to 2048, labels copied",
        share=1 / 128,
        rows_per_step=2,
        dtype="float32",
    ),
)
TRL: Final = (
    TrainerContestant("trl_tuned", "TRL SFTTrainer, tuned", rows_per_step=ROWS_PER_STEP, rows_at_once=AT_ONCE),
    TrainerContestant(
        "trl_default",
        "TRL SFTTrainer: defaults",
        rows_per_step=ROWS_PER_STEP,
        rows_at_once=AT_ONCE,
        dtype="bfloat16",
    ),
)


def contestants() -> tuple[TrainerContestant, ...]:
    """List who can take part in this environment; peft brings accelerate, which HF Trainer needs."""
    has_trl = all(importlib.util.find_spec(name) is not None for name in ("trl", "datasets"))
    return (*OURS, *HF, *(TRL if has_trl else ()))


def run_comparison(case: BenchmarkCase, rounds: int) -> dict[str, Any]:
    """Measure all contestants in interleaved rounds; those that train on all rows are scored in the first."""
    measured: list[tuple[str, Measurement]] = []
    for number in range(rounds):
        for one in contestants():
            is_scored = number == 0 and one.trains_all
            measurement = measure(replace(case.request(one, is_scored=is_scored), warms_up=True))
            measured.append((_tell(one.description, measurement), measurement))
    medians = {}
    for name in dict.fromkeys(name for name, _ in measured):
        [summary] = summarise(measurement for other, measurement in measured if other == name).values()
        medians[name] = asdict(summary)
    return {
        "rounds": [{"contestant": name} | measurement.as_dict() for name, measurement in measured],
        "medians": medians,
    }


def run_ablation(case: BenchmarkCase, rounds: int) -> dict[str, Any]:
    """Measure ours without each technique, in interleaved rounds."""
    measured: list[Measurement] = []
    for _ in range(rounds):
        for off in ablations():
            measured.append(measure(replace(case.request(ABLATED, without=off), warms_up=True)))
            _tell(f"ours without {', '.join(off) or 'nothing'}", measured[-1])
    return {"rounds": [one.as_dict() for one in measured], "medians": list(map(asdict, summarise_ablations(measured)))}


def _tell(name: str, found: Measurement) -> str:
    print(json.dumps({"contestant": name} | found.as_dict()), flush=True)
    return name


def run_benchmark(measures: Callable[[BenchmarkCase, int], dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Write the model and the rows, measure, and give the result file's content."""
    begun = machine.describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, rows_file = folder / SHAPE, folder / "generated.json"
        run_module("benchmarks.training.models", SHAPE, str(base), "--seed", str(SEED))
        rows = generate(ROWS_PER_STEP * STEPS, HELD_OUT, vocabulary=VOCABULARY, seed=SEED)
        rows.write(rows_file)
        case = BenchmarkCase(SHAPE, base, rows_file, rows, PHI_TARGETS, LEARNING_RATE)
        return {"machine": begun, "device": torch.cuda.get_device_name()} | measures(case, rounds)


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ablation", action="store_true", help="instead of the rivals: ours without each technique")
    parser.add_argument("--result", type=Path, help="file for the result")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "this benchmark needs a CUDA GPU, and torch finds none; python -m benchmarks.train runs on a CPU"
        )
    result = run_benchmark(run_ablation if options.ablation else run_comparison, options.rounds)
    print(json.dumps({"medians": result["medians"]}, indent=1))
    if options.result is not None:
        machine.write_result(options.result, result)


if __name__ == "__main__":
    main()
