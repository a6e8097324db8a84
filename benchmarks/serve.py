"""Our engine against its peers, in one run: speed, the tax of adapters, wrong rows, fairness, and the machine's limit.

``python -m benchmarks.serve`` takes over half an hour on two cores; ``python -m benchmarks.serve decode
http`` measures these sections only and leaves the others in this machine's folder of benchmarks/results as they are.
Each section says when and of which commit it was measured. Speeds of one table were measured in interleaved repeats.
Ours and the peers compute in the number type that is fastest on the machine, which decode and http name; correctness
is judged in float32.

Sections: probe (what the machine can do), decode (a runner's steps), correctness (every row its own adapter's answer),
http (through the public API), load (many adapters, a heavy caller, overload), cold (an adapter that is new), start
(an engine's process until it is ready).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.host import machine
from benchmarks.host.number_types import ask_number_types
from benchmarks.host.processes import ROOT, run_module
from benchmarks.serving import cold, starts
from benchmarks.serving.over_http import load, throughput
from benchmarks.serving.results import merge, stamp

SMOLLM2: Final = ROOT / "var" / "base-models" / "smollm2-135m-instruct"
FILE_WIDTH: Final = 160  # of tables that go into a file
PHI_FOLDER: Final = "phi-4x2560"


@dataclass(frozen=True)
class BenchmarkWork:
    """What a section works with; with ``is_quick`` it only shows that everything runs."""

    console: Console
    smollm2: Path
    vllm: Path | None
    folder: Path
    is_quick: bool

    @property
    def phi(self) -> Path:
        """The model of Phi-2's widths, written when it is first asked for."""
        folder = self.folder / PHI_FOLDER
        if not folder.exists():
            run_module("benchmarks.serving.models", str(folder))
        return folder

    def new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def measure_probe(work: BenchmarkWork) -> dict[str, Any]:
    """Measure what the machine reads and multiplies; decode has its own probe, in its own process."""
    speeds = _last_json(run_module("benchmarks.serving.probe"))
    work.console.print("probe", speeds)
    return speeds


def measure_decode(work: BenchmarkWork) -> dict[str, Any]:
    """Measure steps of a runner on both models, each in a process of its own."""
    repeats = ("--repeats", "1") if work.is_quick else ()
    figures = {}
    for what, base in (("smollm2", work.smollm2), ("phi", work.phi)):
        figures[what] = _last_json(run_module("benchmarks.serving.decode", what, str(base), *repeats))
        _print_steps(work.console, what, figures[what])
    return figures


def measure_correctness(work: BenchmarkWork) -> dict[str, Any]:
    """Judge the rows of random mixes, ours and the peers'."""
    options = ["--smollm2", str(work.smollm2)]
    options += ["--mixes", "8", "--smollm2-mixes", "0"] if work.is_quick else []
    options += ["--vllm", str(work.vllm)] if work.vllm is not None else []
    printed = run_module("benchmarks.serve_correctness", *options)
    *printed_lines, _ = printed.splitlines()
    for line in printed_lines:
        work.console.print(line, highlight=False, markup=False)
    return _last_json(printed)


def measure_http(work: BenchmarkWork) -> dict[str, Any]:
    """Measure output tokens a second through HTTP, ours and the peers'."""
    rounds = 1 if work.is_quick else throughput.ROUNDS
    return throughput.run(
        work.console, work.smollm2, work.new_folder("http"), ask_number_types(), vllm=work.vllm, rounds=rounds
    )


def measure_load(work: BenchmarkWork) -> dict[str, Any]:
    """Measure the cache's cliff, fairness and overload."""
    few: dict[str, Any] = {"adapters": 40, "scale": 0.1} if work.is_quick else {}
    return load.run(work.console, work.smollm2, work.new_folder("load"), **few)


def measure_cold(work: BenchmarkWork) -> dict[str, Any]:
    """Measure what a new adapter's load takes, and what it costs others."""
    return cold.run(work.console, work.phi, work.new_folder("cold"))


def measure_start(work: BenchmarkWork) -> dict[str, Any]:
    """Measure how long an engine takes until it is ready."""
    few: dict[str, Any] = {"busy": (0,)} if work.is_quick else {}
    return starts.run(work.console, work.smollm2, work.new_folder("start"), **few)


SECTIONS: Final[Mapping[str, Callable[[BenchmarkWork], dict[str, Any]]]] = {
    "probe": measure_probe,
    "decode": measure_decode,
    "correctness": measure_correctness,
    "http": measure_http,
    "load": measure_load,
    "cold": measure_cold,
    "start": measure_start,
}


def run(work: BenchmarkWork, names: tuple[str, ...], path: Path) -> list[str]:
    """Measure sections and merge each into the file as soon as it is there; give the names of those that failed."""
    failed = []
    for name in names:
        work.console.rule(name)
        begin = time.monotonic()
        try:
            section = SECTIONS[name](work)
        except Exception as failure:  # the other sections are worth as much without this one
            work.console.print(f"{name} failed: {failure!r}", *getattr(failure, "__notes__", ()), markup=False)
            failed.append(name)
            continue
        content = merge(path, name, stamp(section | {"took_s": round(time.monotonic() - begin, 1)}))
        print_figures(work.console, content)
    return failed


def print_figures(console: Console, content: Mapping[str, Any]) -> None:
    """Show the ratios and figures that are there by now."""
    table = Table(title="figures", title_justify="left")
    table.add_column("name")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    figures = {**content["ratios"], **{key: content[key] for key in content["meaning"] if key in content}}
    for name, value in figures.items():
        table.add_row(name, "–" if value is None else f"{value:.3g}", content["meaning"][name])
    console.print(table)


def _print_steps(console: Console, what: str, found: Mapping[str, Any]) -> None:
    table = Table(title=f"{what}: ms of a step, or of feeding a prompt", title_justify="left")
    table.add_column("what")
    table.add_column("median", justify="right")
    table.add_column("least", justify="right")
    for name, one in {**found["steps"], **found.get("against_generate", {})}.items():
        table.add_row(name, f"{one['median_ms']:.2f}", f"{one['min_ms']:.2f}")
    console.print(table)
    for key in ("tax", "roof", "generate_of", "generate_int8_of", "argmax_agreement_with_fp32"):
        if key in found:
            console.print(key, found[key])


def _last_json(printed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    """Measure, show, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="show that everything runs; the figures mean nothing")
    parser.add_argument("--smollm2", type=Path, default=SMOLLM2, help="folder of the imported SmolLM2")
    parser.add_argument("--vllm", type=Path, help="the Python of an environment with vLLM, which then takes part")
    own = machine.result_file("serve")
    parser.add_argument("--result", type=Path, help=f"file for the result; without --quick {own}")
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; the sections are {', '.join(SECTIONS)}")
    if not options.smollm2.is_dir():
        parser.error(f"{options.smollm2} is missing; make setup imports SmolLM2")
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    with tempfile.TemporaryDirectory(prefix="loramill-bench-") as name:
        work = BenchmarkWork(console, options.smollm2, options.vllm, Path(name), options.quick)
        path = options.result or (Path(name) / "serve.json" if options.quick else own)
        failed = run(work, tuple(options.sections) or tuple(SECTIONS), path)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
