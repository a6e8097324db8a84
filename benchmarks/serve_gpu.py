"""Our engine on one CUDA GPU, with a Phi-2 of random weights at its full size.

``python -m benchmarks.serve_gpu`` needs torch, transformers and peft, and what ``worker.inference`` imports. Prints
a JSON object: steps of base rows and of rows with 8 adapters, the time to a first token, and the share of the memory's
rate that is reached.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.serving.decode import build, make_adapters, roofs, taxes, weight_bytes
from benchmarks.serving.probe import probe
from benchmarks.serving.steps import Measured, interleave, time_decode, time_prefill
from benchmarks.training import machine
from benchmarks.training.processes import run_module
from worker.inference.lora import Adapter
from worker.models.loading import load_base_model

SHAPE: Final = "phi-2"
PROMPT_TOKENS, PREFILL_TOKENS, STEPS = 100, 512, 64
ROWS: Final = (1, 8, 32)
RANKS: Final = (8, 16)
OURS: Final = "plain"


def measure(base: Path, repeats: int) -> dict[str, Any]:
    """Measure everything on a model in a folder."""
    weights = weight_bytes(load_base_model(base, dtype="bfloat16"))
    torch.cuda.empty_cache()
    before = probe("cuda", read_bytes=2**32, size=8192)
    runner, loaded = build(base, native=True)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 256, (max(ROWS), PROMPT_TOKENS), generator=generator).tolist()
    long_prompt = torch.randint(0, 256, (PREFILL_TOKENS,), generator=generator).tolist()
    adapters = {rank: make_adapters(base, loaded, rank, 8) for rank in RANKS}
    work: dict[str, Any] = {}
    for rows in ROWS:
        nobody: list[Adapter | None] = [None] * rows
        work[f"{OURS} base {rows}"] = lambda n=rows, a=nobody: time_decode(runner, prompts[:n], a, STEPS)
    for rank, several in adapters.items():
        work[f"{OURS} r{rank} 8"] = lambda a=several: time_decode(runner, prompts[:8], a, STEPS)
    work[f"{OURS} prefill base"] = lambda: time_prefill(runner, long_prompt, None)
    work[f"{OURS} prefill r16"] = lambda: time_prefill(runner, long_prompt, adapters[16][0])
    work["first token"] = lambda: time_prefill(runner, prompts[0], adapters[16][0])
    measured = interleave(work, repeats)
    cached = runner.kv.shape.bytes_per_token * (PROMPT_TOKENS + STEPS // 2)
    steps = {name: one.as_dict() for name, one in measured.items()}
    read_bytes = {rows: weights + rows * cached for rows in ROWS}
    return {
        "probe": before.as_dict(),
        "steps": steps,
        "tokens_per_s": speeds(measured),
        "first_token_ms": steps["first token"]["median_ms"],
        "tax": taxes(measured, (OURS,)),
        "roof": roofs(steps, (OURS,), read_bytes, before.read_gb_per_s),
    }


def speeds(measured: dict[str, Measured]) -> dict[str, float]:
    """Give tokens a second of each kind of step; its name ends with its number of rows."""
    return {
        name.removeprefix(f"{OURS} "): int(name.rsplit(" ", 1)[1]) / one.median_s
        for name, one in measured.items()
        if name.rsplit(" ", 1)[1].isdigit()
    }


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--result", type=Path, help="file for the result")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "this benchmark needs a CUDA GPU, and torch finds none; python -m benchmarks.serve runs on a CPU"
        )
    about = {"machine": machine.describe(), "device": torch.cuda.get_device_name()}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / SHAPE
        run_module("benchmarks.training.models", SHAPE, str(base))
        result = about | measure(base, options.repeats)
    print(json.dumps(result, indent=1))
    if options.result is not None:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        options.result.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
