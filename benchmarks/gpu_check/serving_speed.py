"""How fast the engine's model is with the weights of Phi-2's size: decode steps of any rows, prompts, and the roof.

Steps with recorded graphs and without are interleaved; after each round the medians so far are told.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.gpu_check.models import large_base
from benchmarks.gpu_check.parts import Note, Setting
from benchmarks.host.number_types import probe_number_types
from benchmarks.serving.decode import build, make_adapters, taxes
from benchmarks.serving.probe import BestOfProbes, probe
from benchmarks.serving.roof import roofs, weight_bytes
from benchmarks.serving.steps import StepTimings, interleave, time_decode, time_prefill
from worker.inference.lora.adapter import Adapter
from worker.inference.model.runner import ModelRunner

PROMPT_TOKENS: Final = 100
RANKS: Final = (8, 16)
VARIANTS: Final = {"graphs": True, "eager": False}  # by whether decode steps are recorded and replayed


@dataclass(frozen=True)
class StepSpeedSizes:
    """How much is fed.

    Attributes:
        rows: of steps of the base model.
        mixes: of others: rank, adapters, and rows, which take the adapters in turn.
        kv_bytes: for so many rows of 256 tokens.
    """

    rows: tuple[int, ...]
    mixes: tuple[tuple[int, int, int], ...]
    prefill_tokens: int
    steps: int
    repeats: int
    kv_bytes: int
    read_bytes: int
    product: int
    probe_s: float


_TAXED: Final = ((8, 8, 8), (16, 8, 8))
FULL: Final = StepSpeedSizes(
    rows=(1, 8, 32, 64),
    mixes=((16, 1, 1), *_TAXED, (16, 1, 64), (16, 16, 64)),
    prefill_tokens=512,
    steps=32,
    repeats=5,
    kv_bytes=6 * 2**30,
    read_bytes=2**32,
    product=8192,
    probe_s=0.5,
)
MINIATURE: Final = StepSpeedSizes((1, 8), _TAXED, 32, 4, 1, 2**26, 2**20, 64, 0.01)


def sizes_of(setting: Setting) -> StepSpeedSizes:
    return MINIATURE if setting.is_miniature else FULL


def probe_device(setting: Setting, note: Note) -> BestOfProbes:
    """Measure how fast this device reads its memory and multiplies, and say what it is."""
    sizes = sizes_of(setting)
    found = probe(
        probe_number_types(), setting.device, read_bytes=sizes.read_bytes, size=sizes.product, budget_s=sizes.probe_s
    )
    note("probe", found.as_dict())
    if setting.on_gpu:
        device = torch.cuda.get_device_properties(0)
        note("device", {"name": device.name, "memory_bytes": device.total_memory, "cuda": torch.version.cuda})
        note("capability", list(torch.cuda.get_device_capability()))
    return found


def measure_steps(setting: Setting, note: Note) -> None:
    """Measure everything; without a GPU there is nothing to record, so only one variant."""
    sizes, base = sizes_of(setting), large_base(setting)
    read_gb_per_s = probe_device(setting, note).read_gb_per_s
    variants = VARIANTS if setting.on_gpu else {"eager": False}
    built = {
        name: build(base, "bfloat16", native=False, kv_bytes=sizes.kv_bytes, graphs=graphs)
        for name, graphs in variants.items()
    }
    runners = {name: runner for name, (runner, _) in built.items()}
    _, served = built["eager"]
    most = {rank: max(count for other, count, _ in sizes.mixes if other == rank) for rank in RANKS}
    adapters = {rank: make_adapters(base, served, rank, most[rank]) for rank in RANKS}
    cached_bytes = runners["eager"].kv.shape.bytes_per_token * (PROMPT_TOKENS + sizes.steps // 2)
    read_bytes = {rows: weight_bytes(base) + rows * cached_bytes for rows in sizes.rows}

    def tell(measured: Mapping[str, StepTimings]) -> None:
        steps = {name: one.as_dict() for name, one in measured.items()}
        note("step_ms", {name: one["median_ms"] for name, one in steps.items()})
        note("tokens_per_s", speeds(measured))
        note("graphs_gain", gains(measured))
        note("first_token_ms", steps["first token"]["median_ms"])
        note("tax", taxes(dict(measured), tuple(runners)))
        note("roof", roofs(steps, tuple(runners), read_bytes, [read_gb_per_s] * len(steps["first token"]["ms"])))

    interleave(steps_of(runners, adapters, sizes), sizes.repeats, after_round=tell)


def steps_of(
    runners: dict[str, ModelRunner], adapters: dict[int, list[Adapter]], sizes: StepSpeedSizes
) -> dict[str, Callable[[], float]]:
    """Give what takes each measurement, by runner and kind of step; a decode step's name ends with its rows."""
    prompts = draw_prompts(max(sizes.rows))
    long_prompt = (prompts[0] * (1 + sizes.prefill_tokens // PROMPT_TOKENS))[: sizes.prefill_tokens]
    kinds: dict[str, list[Adapter | None]] = {f"base {rows}": [None] * rows for rows in sizes.rows}
    for rank, count, rows in sizes.mixes:
        name = f"r{rank} {rows}" if count == rows else f"r{rank}, {count} adapters, {rows}"
        kinds[name] = list(itertools.islice(itertools.cycle(adapters[rank][:count]), rows))
    work: dict[str, Any] = {}
    for variant, runner in runners.items():
        for name, rows_adapters in kinds.items():
            work[f"{variant} {name}"] = lambda r=runner, a=rows_adapters: time_decode(
                r, prompts[: len(a)], a, sizes.steps
            )
        work[f"{variant} prefill base"] = lambda r=runner: time_prefill(r, long_prompt, None)
        work[f"{variant} prefill r16"] = lambda r=runner: time_prefill(r, long_prompt, adapters[16][0])
    work["first token"] = lambda: time_prefill(next(iter(runners.values())), prompts[0], adapters[16][0])
    return work


def draw_prompts(count: int) -> list[list[int]]:
    """Give prompts of random ids, the same each time."""
    generator = torch.Generator().manual_seed(0)
    prompts: list[list[int]] = torch.randint(0, 256, (count, PROMPT_TOKENS), generator=generator).tolist()
    return prompts


def speeds(measured: Mapping[str, StepTimings]) -> dict[str, float]:
    """Give tokens a second of each kind of step; its name ends with its number of rows."""
    return {
        name: int(name.rsplit(" ", 1)[1]) / one.median_s
        for name, one in measured.items()
        if name.rsplit(" ", 1)[1].isdigit()
    }


def gains(measured: Mapping[str, StepTimings]) -> dict[str, float]:
    """Give how many times as long each kind of decode step takes without graphs; none where all are taken without."""
    kinds = [name.removeprefix("graphs ") for name in speeds(measured) if name.startswith("graphs ")]
    return {kind: measured[f"eager {kind}"].median_s / measured[f"graphs {kind}"].median_s for kind in kinds}
