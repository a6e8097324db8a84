"""How long the lint of a large file takes, and how much memory.

``python -m benchmarks.lint_speed FOLDER [FOLDER …]``, each the folder of a base model or of its tokenizer
alone. Writes a file of random words whose lengths are spread as those of instruction data are, with some
repetitions, near-repetitions and long examples among them; lints it in a process of its own for each
tokenizer, and prints one JSON object for each.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from core.text.files.jsonl import JSONL
from core.text.lint.linter import lint
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parents[1]
SEED = 1
MAX_LENGTH = 2048


def write_examples(path: Path, examples: int) -> None:
    """Write prompts of 45 and completions of 55 words at the median, log-normally spread.

    The words are those of the licence, each drawn as often as it stands there.
    """
    rng = random.Random(SEED)
    words = re.findall(r"[A-Za-z]+[,.]?", (ROOT / "LICENSE").read_text("utf-8"))

    def text(median_words: int) -> str:
        return " ".join(rng.choices(words, k=max(1, round(rng.lognormvariate(0, 0.8) * median_words))))

    with path.open("w", encoding="utf-8") as file:
        row = {"prompt": "Question:", "completion": " answer"}
        for _ in range(examples):
            draw = rng.random()
            if draw > 0.03:
                row = {"prompt": f"Instruction: {text(45)}\nAnswer:", "completion": f" {text(55)}"}
            elif draw > 0.02:
                row = {**row, "completion": f"{row['completion']} Indeed."}
            file.write(json.dumps(row) + "\n")


def measure(path: Path, tokenizer: Path) -> None:
    """Lint the file, and print the figures of this process."""
    renderer = Renderer(TextTokenizer.from_folder(tokenizer), RenderSettings(max_length=MAX_LENGTH))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    with path.open("rb") as content:
        report = lint(JSONL.read(content), renderer)
    took_s = time.perf_counter() - began_s
    statistics = report.statistics
    assert statistics.tokens is not None
    figures = {
        "tokenizer": tokenizer.name,
        "examples": statistics.examples,
        "median_tokens": statistics.tokens.p50,
        "total_tokens": statistics.trained.prompt_tokens + statistics.trained.completion_tokens,
        "seconds": round(took_s, 1),
        "cpu_seconds": round(time.process_time() - began_cpu_s, 1),
        "examples_per_s": round(statistics.examples / took_s),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "findings": {finding.code: finding.count for finding in report.findings},
    }
    print(json.dumps(figures), flush=True)


def main() -> None:
    """Write the file, and measure each tokenizer in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizers", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # set for the child: measure here
    options = parser.parse_args()
    if options.file is not None:
        measure(options.file, options.tokenizers[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examples.jsonl"
        write_examples(file, options.examples)
        for tokenizer in options.tokenizers:
            command = [sys.executable, "-m", "benchmarks.lint_speed", str(tokenizer), "--file", str(file)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
