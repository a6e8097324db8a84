"""Our engine on one CUDA GPU, with a Phi-2 of random weights at its full size.

``python -m benchmarks.serve_gpu`` needs torch, transformers and peft, and what ``worker.inference`` imports. Prints
a JSON object: steps of base rows and of rows with 8 adapters, with CUDA graphs and without, the time to a first token,
and the share of the memory's rate that is reached.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.serving.decode import build, make_adapters, roofs, taxes, weight_bytes
from benchmarks.serving.probe import probe
from benchmarks.serving.steps import StepTimings, interleave, time_decode, time_prefill
from benchmarks.training import machine
from benchmarks.training.number_types import probe_number_types
from benchmarks.training.processes import run_module
from worker.inference.lora.adapter import Adapter
from worker.inference.model.runner import ModelRunner

SHAPE: Final = "phi-2"
PROMPT_TOKENS, PREFILL_TOKENS, STEPS = 100, 512, 64
ROWS: Final = (1, 8, 32)
RANKS: Final = (8, 16)
KV_BYTES: Final = 2**32  # 32 slots of 256 tokens take 2.7 GB
VARIANTS: Final = {"graphs": True, "eager": False}  # by whether decode steps are recorded and replayed


def measure(base: Path, repeats: int) -> dict[str, Any]:
    """Measure everything on a model in a folder."""
    weights = weight_bytes(base)
    torch.cuda.empty_cache()
    before = probe(probe_number_types(), "cuda", read_bytes=2**32, size=8192)
    built = {name: build(base, "bfloat16", kv_bytes=KV_BYTES, graphs=graphs) for name, graphs in VARIANTS.items()}
    runners = {name: runner for name, (runner, _) in built.items()}
    _, served = built["graphs"]
    adapters = {rank: make_adapters(base, served, rank, 8) for rank in RANKS}
    measured = interleave(steps_of(runners, adapters), repeats)
    cached = runners["graphs"].kv.shape.bytes_per_token * (PROMPT_TOKENS + STEPS // 2)
    steps = {name: one.as_dict() for name, one in measured.items()}
    read_bytes = {rows: weights + rows * cached for rows in ROWS}
    return {
        "probe": before.as_dict(),
        "steps": steps,
        "tokens_per_s": speeds(measured),
        "graphs_gain": gains(measured),
        "first_token_ms": steps["first token"]["median_ms"],
        "tax": taxes(measured, tuple(VARIANTS)),
        "roof": roofs(steps, tuple(VARIANTS), read_bytes, before.read_gb_per_s),
    }


def steps_of(runners: dict[str, ModelRunner], adapters: dict[int, list[Adapter]]) -> dict[str, Callable[[], float]]:
    """Give what takes each measurement, by the runner's name and the kind of step."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 256, (max(ROWS), PROMPT_TOKENS), generator=generator).tolist()
    long_prompt = torch.randint(0, 256, (PREFILL_TOKENS,), generator=generator).tolist()
    work: dict[str, Any] = {}
    for name, runner in runners.items():
        for rows in ROWS:
            nobody: list[Adapter | None] = [None] * rows
            work[f"{name} base {rows}"] = lambda r=runner, n=rows, a=nobody: time_decode(r, prompts[:n], a, STEPS)
        for rank, several in adapters.items():
            work[f"{name} r{rank} 8"] = lambda r=runner, a=several: time_decode(r, prompts[:8], a, STEPS)
        work[f"{name} prefill base"] = lambda r=runner: time_prefill(r, long_prompt, None)
        work[f"{name} prefill r16"] = lambda r=runner: time_prefill(r, long_prompt, adapters[16][0])
    work["first token"] = lambda: time_prefill(runners["graphs"], prompts[0], adapters[16][0])
    return work


def speeds(measured: dict[str, StepTimings]) -> dict[str, float]:
    """Give tokens a second of each kind of step; its name ends with its number of rows."""
    return {
        name: int(name.rsplit(" ", 1)[1]) / one.median_s
        for name, one in measured.items()
        if name.rsplit(" ", 1)[1].isdigit()
    }


def gains(measured: dict[str, StepTimings]) -> dict[str, float]:
    """Give how many times as long each kind of decode step takes without graphs."""
    kinds = [name.removeprefix("graphs ") for name in speeds(measured) if name.startswith("graphs ")]
    return {kind: measured[f"eager {kind}"].median_s / measured[f"graphs {kind}"].median_s for kind in kinds}


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
        machine.write_result(options.result, result)


if __name__ == "__main__":
    main()
