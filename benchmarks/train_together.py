"""Adapters of one base trained together against one after another: speed and memory at 1, 2, 4 and 8 of them.

``python -m benchmarks.train_together`` takes about a quarter of an hour on two cores. Every measurement is a process of
its own; rounds are interleaved (1 2 4 8 1 2 4 8 …), so that what else the machine does falls on all alike. One after
another, so many take as many times what one takes in the same round. The result is printed, and written to this
machine's folder of benchmarks/results.

What is saved is the start, the base model's memory, and the products' own overhead, which is large where a step has
few tokens: so each model is tried with steps of few and of more rows.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.host import machine
from benchmarks.host.processes import run_module
from benchmarks.train import E2E, FILE_WIDTH, SMOLLM2
from benchmarks.training.cases import LLAMA_TARGETS, PHI_TARGETS, SEED
from benchmarks.training.measurement import TogetherRequest, TrainedTogether
from benchmarks.training.rows import generate
from benchmarks.training.text_rows import read_rows

ARMS: Final = (1, 2, 4, 8)
WIDTHS, VOCABULARY = "phi-2-widths", 51_200

Measure = Callable[[TogetherRequest], TrainedTogether]


@dataclass(frozen=True)
class StepSize:
    """How much each adapter trains on, how it is cut, and how often it is measured."""

    examples: int
    rows_per_step: int
    rounds: int


SMOLLM2_SIZES: Final = (StepSize(8, 1, rounds=2), StepSize(16, 8, rounds=2))
WIDE_SIZES: Final = (StepSize(4, 1, rounds=1), StepSize(8, 8, rounds=1))
QUICK_ARMS: Final = (1, 2)


@dataclass(frozen=True)
class TogetherCase:
    """One model and its rows, at one size of step."""

    name: str
    base: Path
    rows_file: Path
    targets: tuple[str, ...]
    size: StepSize

    def request(self, arms: int) -> TogetherRequest:
        size = self.size
        return TogetherRequest(
            str(self.base), str(self.rows_file), self.targets, arms, size.examples, size.rows_per_step
        )


@dataclass(frozen=True)
class Gain:
    """What so many adapters together come to, medians over the rounds.

    Attributes:
        times_faster: than one after another, training alone.
        times_faster_with_start: the same from the processes' starts to their last step.
        times_the_memory: of one process of one.
    """

    arms: int
    tokens_per_s: float
    peak_memory_bytes: int
    times_faster: float
    times_faster_with_start: float
    times_the_memory: float


def measure(request: TogetherRequest) -> TrainedTogether:
    """Ask a new process for one measurement."""
    printed = run_module("benchmarks.training.together", request.to_json())
    return TrainedTogether.from_json(printed.splitlines()[-1])


def run_rounds(
    case: TogetherCase, arms: Sequence[int], measure: Measure, tell: Callable[[str], None]
) -> list[list[TrainedTogether]]:
    """Measure each number of adapters once a round; the first is one."""
    measured, rounds = [], case.size.rounds
    for number in range(rounds):
        found = []
        for count in arms:
            found.append(measure(case.request(count)))
            speed = f"{found[-1].tokens_per_s:,.0f} tokens/s in {found[-1].seconds:.1f} s, load {found[-1].load:.1f}"
            tell(f"{case.name}, round {number + 1} of {rounds}: {count} together: {speed}")
        measured.append(found)
    return measured


def gains(rounds: Sequence[Sequence[TrainedTogether]]) -> list[Gain]:
    """Compare each number of adapters with one of the same round."""
    compared = []
    for place, first in enumerate(rounds[0]):
        pairs = [(several[0], several[place]) for several in rounds]
        compared.append(
            Gain(
                arms=first.arms,
                tokens_per_s=median(own.tokens_per_s for _, own in pairs),
                peak_memory_bytes=round(median(own.peak_memory_bytes for _, own in pairs)),
                times_faster=median(own.tokens_per_s / one.tokens_per_s for one, own in pairs),
                times_faster_with_start=median(
                    first.arms * (one.startup_s + one.seconds) / (own.startup_s + own.seconds) for one, own in pairs
                ),
                times_the_memory=median(own.peak_memory_bytes / one.peak_memory_bytes for one, own in pairs),
            )
        )
    return compared


def make_cases(folder: Path, smollm2: Path, e2e: Path) -> list[TogetherCase]:
    """Write models and rows into a folder; without SmolLM2 or its data there is only the model with random weights."""
    cases = []
    if smollm2.is_dir() and e2e.is_dir():
        rows_file = folder / "e2e.json"
        read_rows(e2e, max(size.examples for size in SMOLLM2_SIZES), 1, smollm2).write(rows_file)
        cases += [
            TogetherCase(f"smollm2-135m on E2E, {_said(size)}", smollm2, rows_file, LLAMA_TARGETS, size)
            for size in SMOLLM2_SIZES
        ]
    base, rows_file = folder / WIDTHS, folder / "generated.json"
    run_module("benchmarks.training.models", WIDTHS, str(base), "--seed", str(SEED))
    rows = max(size.examples for size in WIDE_SIZES)
    generate(rows, 1, vocabulary=VOCABULARY, seed=SEED).write(rows_file)
    return cases + [
        TogetherCase(f"two blocks of Phi-2's widths, {_said(size)}", base, rows_file, PHI_TARGETS, size)
        for size in WIDE_SIZES
    ]


def _said(size: StepSize) -> str:
    return f"{size.rows_per_step} row{'s' * (size.rows_per_step != 1)} a step"


def run_benchmark(
    cases: Sequence[TogetherCase], arms: Sequence[int], measure: Measure, console: Console
) -> dict[str, Any]:
    """Measure everything; give what the result file holds of each case."""
    results = {}
    for case in cases:
        begun = machine.describe()
        measured = run_rounds(case, arms, measure, lambda line: console.print(line, highlight=False))
        found = gains(measured)
        _print_case(console, case.name, found)
        results[case.name] = {
            "machine": begun,
            "load_at_the_end": machine.describe()["load"],
            "size": asdict(case.size),
            "rounds": [[asdict(one) for one in several] for several in measured],
            "gains": [asdict(one) for one in found],
        }
    return results


def _print_case(console: Console, name: str, found: Sequence[Gain]) -> None:
    table = Table(title=name)
    for column in ("together", "tokens/s", "times faster", "with the start", "memory, GiB", "times the memory"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(
            str(one.arms),
            f"{one.tokens_per_s:,.0f}",
            f"{one.times_faster:.2f}",
            f"{one.times_faster_with_start:.2f}",
            f"{one.peak_memory_bytes / 2**30:.2f}",
            f"{one.times_the_memory:.2f}",
        )
    console.print(table)


def main() -> None:
    """Measure, show, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only those whose name holds this; of others the result stays")
    parser.add_argument("--quick", action="store_true", help="show that everything runs; the figures mean nothing")
    parser.add_argument("--smollm2", type=Path, default=SMOLLM2, help="folder of the imported SmolLM2")
    parser.add_argument("--e2e", type=Path, default=E2E, help="folder with train.jsonl and valid.jsonl")
    own = machine.result_file("train_together")
    parser.add_argument("--result", type=Path, help=f"file for the result; without --quick {own}")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        cases = [one for one in make_cases(Path(folder), options.smollm2, options.e2e) if options.case in one.name]
        result = run_benchmark(cases, QUICK_ARMS if options.quick else ARMS, measure, console)
    path = options.result or (None if options.quick else own)
    if path is not None:
        kept = json.loads(path.read_text("utf-8"))["cases"] if path.exists() else {}
        machine.write_result(path, {"cases": kept | result})


if __name__ == "__main__":
    main()
