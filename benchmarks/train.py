"""Our trainer against HF Trainer and TRL, in one run: speed, memory, held-out loss, and the machine's own limit.

``python -m benchmarks.train`` takes about half an hour on two cores. Every measurement is a process of its own;
rounds are interleaved (A B C D A B C D …), so that what else the machine does falls on all alike. The result is
printed, and written to this machine's folder of benchmarks/results. Ours computes in the number type that is
fastest on the machine, rivals that can choose in both, and each in its better one is compared with.

Compared are one epoch over the same ids, from the same weights and adapter, with the same learning rates and as
many rows in a step. group_by_length makes its own steps of the rows; packing makes a step of each pack.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.host import machine
from benchmarks.host.number_types import NumberTypes, ask_number_types
from benchmarks.host.processes import ROOT, measure, run_module
from benchmarks.training.cases import LLAMA_TARGETS, PHI_TARGETS, SEED, BenchmarkCase, choose_contestants
from benchmarks.training.measurement import Measurement, MeasurementRequest
from benchmarks.training.report import print_ablations, print_case, print_products
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations, ratios, summarise, summarise_ablations
from benchmarks.training.text_rows import read_rows

SMOLLM2: Final = ROOT / "var" / "base-models" / "smollm2-135m-instruct"
E2E: Final = ROOT.parent / "shared" / "data" / "e2e"
SHAPE, VOCABULARY = "phi-8x1024", 51_200
PHI_LEARNING_RATE, SMOLLM2_LEARNING_RATE = 1e-3, 1e-3


@dataclass(frozen=True)
class Amount:
    """How much is measured; `QUICK` only shows that everything runs."""

    rounds: int = 5
    smollm2_rounds: int = 1
    ablation_rounds: int = 2
    rows: int = 64  # 8 steps
    held_out: int = 32
    ablation_share: float = 0.5


FILE_WIDTH: Final = 160  # of tables that go into a file

QUICK: Final = Amount(rounds=1, smollm2_rounds=1, ablation_rounds=1, rows=16, held_out=4)


class TrainingBenchmark:
    """Takes measurements, and says what it does meanwhile."""

    def __init__(
        self, console: Console, measure: Callable[[MeasurementRequest], Measurement], types: NumberTypes
    ) -> None:
        self._console = console
        self._measure = measure
        self._contestants, self.left_out = choose_contestants(types)  # ours is the first

    def rounds(self, case: BenchmarkCase, count: int) -> tuple[list[list[Measurement]], float]:
        """Give what each round measured, and the held-out loss of the base model."""
        untrained = self._measure(replace(case.request(self._contestants[0], is_scored=True), trainer="untrained"))
        assert untrained.held_out_loss is not None
        return [list(self._round(case, number, count)) for number in range(count)], untrained.held_out_loss

    def _round(self, case: BenchmarkCase, number: int, count: int) -> Iterator[Measurement]:
        for contestant in self._contestants:
            if number % contestant.every == 0:
                is_scored = number == 0 and contestant.trains_all
                found = self._measure(case.request(contestant, is_scored=is_scored))
                self._tell(f"{case.name}, round {number + 1} of {count}", contestant.name, found)
                yield found

    def ablation_rounds(self, case: BenchmarkCase, amount: Amount) -> list[list[Measurement]]:
        """Give what each round measured of ours without its techniques."""
        rounds = []
        for number in range(amount.ablation_rounds):
            found = []
            for off in ablations():
                request = case.request(replace(self._contestants[0], share=amount.ablation_share), without=off)
                found.append(self._measure(request))
                name = f"without {', '.join(off) or 'nothing'}"
                self._tell(f"ablation, round {number + 1} of {amount.ablation_rounds}", name, found[-1])
            rounds.append(found)
        return rounds

    def _tell(self, place: str, name: str, found: Measurement) -> None:
        speed = f"{found.useful_tokens_per_s:,.0f} useful tok/s in {found.seconds:.1f} s, load {found.load:.1f}"
        self._console.print(f"{place}: {name}: {speed}", highlight=False)


def make_phi_case(folder: Path, amount: Amount) -> BenchmarkCase:
    """Write the model with random weights and the generated rows into a folder."""
    base, rows_file = folder / SHAPE, folder / "generated.json"
    run_module("benchmarks.training.models", SHAPE, str(base), "--seed", str(SEED))
    rows = generate(amount.rows, amount.held_out, vocabulary=VOCABULARY, seed=SEED)
    rows.write(rows_file)
    return BenchmarkCase(SHAPE, base, rows_file, rows, PHI_TARGETS, PHI_LEARNING_RATE)


def make_smollm2_case(folder: Path, amount: Amount, base: Path, e2e: Path) -> BenchmarkCase | str:
    """Render the real rows into a folder; where something is missing, say what."""
    for needed, what in ((base, "SmolLM2 (make setup imports it)"), (e2e, "the E2E data")):
        if not needed.is_dir():
            return f"skipped: {needed} is missing, {what}"
    rows, rows_file = read_rows(e2e, amount.rows, amount.held_out, base), folder / "e2e.json"
    rows.write(rows_file)
    return BenchmarkCase("smollm2-135m on E2E", base, rows_file, rows, LLAMA_TARGETS, SMOLLM2_LEARNING_RATE)


def _as_json(rounds: Sequence[Sequence[Measurement]]) -> list[list[dict[str, Any]]]:
    return [[one.as_dict() for one in measured] for measured in rounds]


def run_case(run: TrainingBenchmark, console: Console, case: BenchmarkCase, rounds: int) -> dict[str, Any]:
    """Measure one case, show it, and give what the result file holds of it."""
    measured, untrained_loss = run.rounds(case, rounds)
    summaries = summarise(one for several in measured for one in several)
    print_case(console, case.name, summaries, untrained_loss)
    lengths = [len(row.ids) for row in case.rows.training]
    return {
        "rows": len(lengths),
        "mean_tokens": sum(lengths) / len(lengths),
        "trained_share": sum(row.trained_tokens for row in case.rows.training) / sum(lengths),
        "learning_rate": case.learning_rate,
        "untrained_held_out_loss": untrained_loss,
        "rounds": _as_json(measured),
        "medians": {trainer: asdict(summary) for trainer, summary in summaries.items()},
        "ratios": ratios(summaries),
    }


def run_benchmark(amount: Amount, smollm2: Path, e2e: Path, console: Console) -> dict[str, Any]:
    """Measure everything; give the result file's content."""
    begun, types = machine.describe(), ask_number_types()
    run = TrainingBenchmark(console, measure, types)
    console.print("number types", types.as_dict(), "left out:", ", ".join(run.left_out) or "nobody")
    with tempfile.TemporaryDirectory() as folder:
        phi = make_phi_case(Path(folder), amount)
        cases = {"phi": run_case(run, console, phi, amount.rounds)}
        real = make_smollm2_case(Path(folder), amount, smollm2, e2e)
        if isinstance(real, BenchmarkCase):
            cases["smollm2"] = run_case(run, console, real, amount.smollm2_rounds)
        else:
            console.print(real)
            cases["smollm2"] = {"skipped": real}
        ablation_rounds = run.ablation_rounds(phi, amount)
    table = summarise_ablations(one for several in ablation_rounds for one in several)
    print_ablations(console, table)
    [ours, *_] = cases["phi"]["rounds"][-1]
    print_products(console, ours["products"])
    return {
        "machine": begun,
        "number_types": types.as_dict() | {"left_out": run.left_out},
        "load_at_the_end": machine.describe()["load"],
        "amount": asdict(amount),
        "cases": cases,
        "ablation": {"rounds": _as_json(ablation_rounds), "table": [asdict(one) for one in table]},
        "ratios": cases["phi"]["ratios"],
    }


def main() -> None:
    """Measure, show, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="of the comparison on the Phi-shaped model")
    parser.add_argument("--quick", action="store_true", help="show that everything runs; the figures mean nothing")
    parser.add_argument("--smollm2", type=Path, default=SMOLLM2, help="folder of the imported SmolLM2")
    parser.add_argument("--e2e", type=Path, default=E2E, help="folder with train.jsonl and valid.jsonl")
    own = machine.result_file("train")
    parser.add_argument("--result", type=Path, help=f"file for the result; without --quick {own}")
    options = parser.parse_args()
    amount = QUICK if options.quick else Amount()
    if options.rounds is not None:
        amount = replace(amount, rounds=options.rounds)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    result = run_benchmark(amount, options.smollm2, options.e2e, console)
    path = options.result or (None if options.quick else own)
    if path is not None:
        machine.write_result(path, result)


if __name__ == "__main__":
    main()
