"""One process of ``benchmarks.serve``'s decode section: our runner's steps on one model, beside transformers'.

``python -m benchmarks.serving.decode WHAT BASE`` prints what it found as JSON in its last line; WHAT is ``smollm2``
(against generate, 8-bit weights, the tax of adapters) or ``phi`` (the tax and the roof at Phi-2's widths). Ours and
transformers compute in the number type that is fastest on the machine.
"""

import argparse
import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch

from benchmarks.host.number_types import NumberTypes, probe_number_types
from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.adapters import factors, list_linears
from benchmarks.serving.probe import probe, probe_read
from benchmarks.serving.prompts import cut_ids
from benchmarks.serving.results import tax
from benchmarks.serving.roof import roofs, weight_bytes
from benchmarks.serving.steps import (
    StepTimings,
    agreement,
    generate,
    interleave,
    time_decode,
    time_generate,
    time_prefill,
)
from benchmarks.training.adapters import load
from core.base_models.registry import DType
from core.errors import BaseModelInvalid
from core.settings import Settings
from core.text.rendering import Renderer
from worker.inference.lora.adapter import Adapter, LoraPair
from worker.inference.model.contract import Runner
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.inference.native.unused_memory import release_unused_memory
from worker.models.precision import resolve_dtype
from worker.models.serving import EngineModel, open_engine_model

PROMPT_TOKENS, STEPS, BATCH = 100, 32, 8
PREFILL_TOKENS: Final = 256
AGREEMENT_PROMPTS, AGREEMENT_TOKENS = 8, 64  # 512 positions
RANKS: Final = (8, 16)
REPEATS: Final = 7
READ: Final = "read"  # beside the steps, what the machine's memory gives
WEIGHTS: Final[tuple[Literal["model", "int8"], ...]] = ("model", "int8")
VARIANTS: Final = {"plain": False, "with_compiler": True}  # by whether native kernels may be used


def build(
    base: Path,
    dtype: DType,
    *,
    native: bool = True,
    weights: Literal["model", "int8"] = "model",
    kv_bytes: int = 2**30,
    graphs: bool = True,
) -> tuple[ModelRunner, EngineModel]:
    """Build the engine's runner over a model of its own, with a cache no larger than is needed."""
    settings = Settings(
        engine_native=native, engine_weights=weights, engine_kv_bytes=kv_bytes, engine_cuda_graphs=graphs
    )
    served = open_engine_model(base, settings.references_folder, dtype=dtype)
    runner = build_runner(served, settings)
    gc.collect()
    release_unused_memory()  # as an engine's process does
    return runner, served


def make_adapters(base: Path, served: EngineModel, rank: int, count: int) -> list[Adapter]:
    """Make random adapters on every linear layer, as the engine has them in memory."""
    renderer = Renderer(served.tokenizer)
    adapters = []
    for seed in range(count):
        spec = AdapterSpec(f"r{rank}-{seed}", rank, seed=1000 * rank + seed)
        pairs = {
            name: LoraPair(
                a_RI.to(served.device, served.dtype),
                (b_OR.float() * spec.scale_of(name)).T.contiguous().to(served.device, served.dtype),
            )
            for name, (a_RI, b_OR) in factors(list_linears(base), spec).items()
        }
        adapters.append(Adapter(spec.name, pairs, renderer, sum(pair.bytes for pair in pairs.values())))
    return adapters


def measure_taxes(
    runners: dict[str, Runner],
    adapters: dict[int, list[Adapter]],
    prompts: Sequence[Sequence[int]],
    long_prompt: Sequence[int],
    repeats: int,
) -> dict[str, Any]:
    """Measure steps of base rows and of rows with an adapter each, and feeding a prompt; give all and the taxes.

    And the seconds in which the machine reads a gigabyte, in each repeat.
    """
    nobody: list[Adapter | None] = [None] * len(prompts)
    work: dict[str, Any] = {READ: lambda: 1 / probe_read()}
    for name, runner in runners.items():
        work[f"{name} base 1"] = lambda r=runner: time_decode(r, prompts[:1], nobody[:1], STEPS)
        work[f"{name} base 8"] = lambda r=runner: time_decode(r, prompts, nobody, STEPS)
        for rank, several in adapters.items():
            work[f"{name} r{rank} 8"] = lambda r=runner, a=several: time_decode(r, prompts, a, STEPS)
        work[f"{name} prefill base"] = lambda r=runner: time_prefill(r, long_prompt, None)
        work[f"{name} prefill r16"] = lambda r=runner, a=adapters[16][0]: time_prefill(r, long_prompt, a)
    measured = interleave(work, repeats)
    gb_per_s = [1 / seconds for seconds in measured.pop(READ).seconds]
    steps = {name: one.as_dict() for name, one in measured.items()}
    return {"steps": steps, "gb_per_s": gb_per_s, "tax": taxes(measured, tuple(runners))}


def taxes(measured: dict[str, StepTimings], variants: Sequence[str]) -> dict[str, Any]:
    """Give each tax of the variant that is fastest with adapters, and beside it those of all."""
    found: dict[str, Any] = {}
    for key, with_, without in (
        *((f"r{rank}", f"r{rank} 8", "base 8") for rank in RANKS),
        ("prefill_r16", "prefill r16", "prefill base"),
    ):
        each = {v: tax(measured[f"{v} {with_}"].median_s, measured[f"{v} {without}"].median_s) for v in variants}
        best = min(variants, key=lambda v: measured[f"{v} {with_}"].median_s)
        found |= {key: each[best], f"{key}_of": each}
    return found


def run_phi(base: Path, repeats: int, types: NumberTypes) -> dict[str, Any]:
    """Measure the tax of adapters and the share of the roof."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 256, (BATCH, PROMPT_TOKENS), generator=generator).tolist()
    long_prompt = torch.randint(0, 256, (PREFILL_TOKENS,), generator=generator).tolist()
    return _run(base, prompts, long_prompt, repeats, types)


def _run(
    base: Path, prompts: list[list[int]], long_prompt: list[int], repeats: int, types: NumberTypes
) -> dict[str, Any]:
    """Measure taxes and roof."""
    before = probe(types)
    built = {name: build(base, types.fastest, native=native) for name, native in VARIANTS.items()}
    runners: dict[str, Runner] = {name: runner for name, (runner, _) in built.items()}
    _, served = built["plain"]
    adapters = {rank: make_adapters(base, served, rank, BATCH) for rank in RANKS}
    taxes = measure_taxes(runners, adapters, prompts, long_prompt, repeats)
    read_bytes = _read_bytes(base, runners["plain"])
    return taxes | {
        "number_types": types.as_dict(),
        "roof": roofs(taxes["steps"], tuple(runners), read_bytes, taxes.pop("gb_per_s")),
        "probe": before.as_dict() | {"load": list(os.getloadavg())},
    }


def _read_bytes(base: Path, runner: Runner) -> dict[int, int]:
    weights = weight_bytes(base)
    cached = runner.kv.shape.bytes_per_token * (PROMPT_TOKENS + STEPS // 2)
    return {rows: weights + rows * cached for rows in (1, BATCH)}


def run_smollm2(base: Path, repeats: int, types: NumberTypes) -> dict[str, Any]:
    """Measure what `run_phi` does, then steps against generate's in the same type, and with our weights in 8 bits."""
    prompts = cut_ids(base, BATCH, PROMPT_TOKENS)
    [long_prompt] = cut_ids(base, 1, PREFILL_TOKENS, begin=20)
    figures = _run(base, prompts, long_prompt, repeats, types)
    gc.collect()
    runners, absent = build_all(base, types.fastest)
    peer = load_endless(base, resolve_dtype(types.fastest))
    compared = _against_generate(runners, peer, prompts, repeats)
    oracle = load_endless(base, torch.float32)
    agreement_prompts = cut_ids(base, AGREEMENT_PROMPTS, PROMPT_TOKENS, begin=30)
    answers = generate(oracle, agreement_prompts, AGREEMENT_TOKENS)
    agreements = {name: agreement(runner, agreement_prompts, answers) for name, runner in runners.items()}
    return figures | compared | {"argmax_agreement_with_fp32": agreements, "absent": absent}


def build_all(base: Path, dtype: DType) -> tuple[dict[str, ModelRunner], dict[str, str]]:
    """Build each variant with weights as they are and in 8 bits; and say why one cannot have them in 8 bits."""
    runners: dict[str, ModelRunner] = {}
    absent: dict[str, str] = {}
    for weights in WEIGHTS:
        for name, native in VARIANTS.items():
            try:
                runners[f"{name} {weights}"], _ = build(base, dtype, native=native, weights=weights)
            except BaseModelInvalid as refusal:
                if weights == "model":
                    raise
                absent[f"{name} {weights}"] = str(refusal)
    return runners, absent


def load_endless(base: Path, dtype: torch.dtype) -> Any:
    """Load a model as transformers' users do, but let no end token end its answers."""
    model = load(base, dtype).eval()
    model.generation_config.eos_token_id = None
    return model


def _against_generate(
    runners: dict[str, ModelRunner], peer: Any, prompts: list[list[int]], repeats: int
) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    ratios: dict[tuple[str, int], float] = {}
    for rows in (1, BATCH):
        work: dict[str, Any] = {"generate": lambda n=rows: time_generate(peer, prompts[:n], STEPS)}
        for name, runner in runners.items():
            work[name] = lambda r=runner, n=rows: time_decode(r, prompts[:n], [None] * n, STEPS)
        measured = interleave(work, repeats)
        steps |= {f"{name}, {rows} rows": one.as_dict() for name, one in measured.items()}
        for name in runners:
            ratios[name, rows] = measured["generate"].median_s / measured[name].median_s
    return {
        "against_generate": steps,
        **(best_ratios(ratios, "model", "generate") | best_ratios(ratios, "int8", "generate_int8")),
    }


def best_ratios(ratios: dict[tuple[str, int], float], weights: str, key: str) -> dict[str, Any]:
    """Give the better variant's ratios by rows, and beside them each variant's that there is."""
    each = {
        name: {str(rows): ratios[f"{name} {weights}", rows] for rows in (1, BATCH)}
        for name in VARIANTS
        if (f"{name} {weights}", 1) in ratios
    }
    best = {str(rows): max(one[str(rows)] for one in each.values()) for rows in (1, BATCH)} if each else {}
    return {key: best, f"{key}_of": each}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phi", "smollm2"))
    parser.add_argument("base", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = run_phi if options.what == "phi" else run_smollm2
    print(json.dumps(run(options.base, options.repeats, probe_number_types())))


if __name__ == "__main__":
    main()
