"""What of Loramill holds on this machine's GPU, in one command: ``python -m benchmarks.gpu_check``.

Tries every path that a GPU takes, and measures training and serving on a model of Phi-2's size with random weights, in
at most the minutes given. Needs torch, transformers, peft, pydantic and what it names where that is missing; rivals
take part where they are installed. Writes 6 GB into the folder for temporary files. Prints a table, and writes
JSON after each part. Ends with 0 where nothing failed, 1 where a part failed, 2 where it cannot be tried at all.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu_check.listing import PARTS
from benchmarks.gpu_check.parts import Part, PartResult, Setting, run_parts
from benchmarks.gpu_check.requirements import find_missing, pip_command

HELD, FAILED, NOT_TRIED = 0, 1, 2
OUT: Final = Path("gpu-check.json")


def main() -> int:
    """Check, and give the exit status."""
    options = _parse()
    missing = find_missing()
    if missing:
        print(f"missing here: {', '.join(missing)}; install them: {pip_command(missing)}", file=sys.stderr)
        return NOT_TRIED
    if options.device == "cuda" and not _has_gpu():
        print("torch finds no CUDA GPU here; --miniature tries all that a CPU can, on tiny models", file=sys.stderr)
        return NOT_TRIED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part ends with this process
    with tempfile.TemporaryDirectory(prefix="loramill-gpu-check-") as folder:
        setting = Setting(options.device, options.miniature, Path(folder))
        _set_environment(setting)
        return check(PARTS, setting, 60 * options.minutes, options.out)


def check(parts: Sequence[Part], setting: Setting, seconds: float, out: Path) -> int:
    """Run parts, show and write each result as it comes, and give the exit status."""
    from benchmarks.gpu_check import report  # imports what may be missing

    about, results = report.describe(setting), list[PartResult]()
    # a copy of a process that asked for the GPU could not use it, so with one each starts from the beginning
    for result in run_parts(parts, setting, seconds, start_method="spawn" if setting.on_gpu else "forkserver"):
        results.append(result)
        report.write(out, about, results)
        print(report.line(result), *report.figure_lines(result), sep="\n", flush=True)
    counts = report.count(results)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.items()) + f"; all figures are in {out}")
    return FAILED if counts["failed"] else HELD


def _has_gpu() -> bool:
    import torch  # seconds, and only known to be there now

    return torch.cuda.is_available()


def _set_environment(setting: Setting) -> None:
    """Say to all parts: no hub, no state of an installation, and on a CPU no GPU and one thread."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "LORAMILL_HOME": str(setting.folder)}
    if not setting.on_gpu:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}  # several would wait for each other


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="that all parts together may take (default: 8)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for all figures (default: {OUT})")
    parser.add_argument("--miniature", action="store_true", help="tiny models, few mixes, by default on the CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, or cpu with --miniature")
    options = parser.parse_args()
    options.device = options.device or ("cpu" if options.miniature else "cuda")
    if options.device == "cpu" and not options.miniature:
        parser.error("on a CPU only --miniature ends in minutes")
    return options


if __name__ == "__main__":
    sys.exit(main())
