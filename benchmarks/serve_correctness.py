"""Does every row of every mix get its own adapter's answer? Ours and the peers', against PEFT alone in float32.

``python -m benchmarks.serve_correctness`` sends seeded random mixes (base rows and 1 to 16 adapters of ranks 4 to 64,
rows that come late or leave, prompts that share beginnings) to engines of several settings over tiny models and over
SmolLM2, and prints how many rows are wrong. A row whose first difference lies where PEFT's two likeliest tokens are
closer than 1e-4 is counted as tied. Prints JSON as its last line.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.correctness.contestants import ContinuousBatches, PeftBatch, VllmContestant
from benchmarks.correctness.field import Field, judge_all, make_field
from benchmarks.correctness.mixes import Mix, Tally, power
from benchmarks.correctness.ours import our_engine
from benchmarks.host.processes import ROOT
from benchmarks.peers.commands import find_vllm, vllm_server
from benchmarks.serving.over_http.servers import ServerFailed, running
from tests.harness.models.tiny_models import store_in, write_tiny_llama, write_tiny_phi

MIXES, SMOLLM2_MIXES, PEER_MIXES = 1000, 40, 60
SMOLLM2: Final = ROOT / "var" / "base-models" / "smollm2-135m-instruct"
# Of our engine; adapters are evicted from memory and from their columns in the third.
CONFIGURATIONS: Final[tuple[dict[str, Any], ...]] = (
    {"engine_max_batch": 8, "engine_speculation": True, "engine_native": True},
    {"engine_max_batch": 4, "engine_speculation": False, "engine_prefill_tokens": 3, "engine_native": False},
    {"engine_max_batch": 16, "engine_speculation": True, "engine_prefill_tokens": 16, "engine_lora_columns": 96},
    {"engine_max_batch": 6, "engine_speculation": False, "engine_prefill_tokens": 64, "engine_prefix_bytes": 2**18},
)
FEW_ADAPTERS: Final = 6  # that the third configuration keeps in memory


async def judge_ours(field: Field, folder: Path, mixes: Sequence[Mix]) -> Tally:
    """Deal the mixes to engines of each configuration."""
    tally = Tally()
    for number, configuration in enumerate(CONFIGURATIONS):
        settings = dict(configuration)
        if "engine_lora_columns" in settings:
            sizes = [(one / "adapter_model.safetensors").stat().st_size for one in field.folders.values()]
            settings["adapter_cache_bytes"] = FEW_ADAPTERS * max(sizes)
        async with our_engine(field, folder / f"home-{number}", settings) as ours:
            await judge_all(ours, field, mixes[number :: len(CONFIGURATIONS)], tally)
    return tally


async def judge_peers(field: Field, mixes: Sequence[Mix]) -> dict[str, Tally]:
    """Send the same mixes to the peers that run in this process; rows that leave stay there."""
    tallies = {}
    common = (field.base, field.folders, field.prompts)
    tallies["PEFT, adapter_names"] = tally = Tally()
    await judge_all(PeftBatch(*common, vocabulary=field.vocabulary), field, stay(mixes), tally)
    for shares in (True, False):
        name = f"transformers continuous batching, allow_block_sharing={shares}"
        tallies[name] = tally = Tally()
        batches = ContinuousBatches(*common, vocabulary=field.vocabulary, shares_blocks=shares)
        try:
            await judge_all(batches, field, stay(mixes), tally)
        finally:
            batches.close()
    return tallies


def judge_vllm(python: Path, field: Field, mixes: Sequence[Mix], folder: Path) -> Tally:
    """Send mixes to vLLM in float32; its adapters must be plain ones, as it knows no patterns."""
    adapters = {f"m{number}": one for number, one in field.folders.items()}
    server = vllm_server(python, field.base, adapters, "float32", rank=64)
    tally = Tally()
    with running(server, folder):
        asyncio.run(judge_all(VllmContestant(server.url, field.base.name, field.prompts), field, stay(mixes), tally))
    return tally


def stay(mixes: Sequence[Mix]) -> list[Mix]:
    """Give the mixes with no row that leaves."""
    return [tuple(type(row)(row.adapter, row.prompt, row.max_tokens, row.late_s) for row in mix) for mix in mixes]


def run(folder: Path, *, mixes: int, smollm2: Path | None, smollm2_mixes: int, vllm: Path | None) -> dict[str, Any]:
    """Judge everything; give the rows of each engine over each model."""
    found: dict[str, dict[str, Any]] = {}
    # of 16 bits, as published weights are: those are what compiled products take
    tiny = {"tiny-phi": (write_tiny_phi, torch.float16), "tiny-llama": (write_tiny_llama, torch.bfloat16)}
    for seed, (name, (write, kind)) in enumerate(tiny.items()):
        base = store_in(kind, write(folder / name))
        field = make_field(base, folder / f"{name}-adapters", seed=seed, prompts=12, longest=60, tokens=12)
        drawn = field.mixes(seed, mixes // len(tiny))
        found[name] = _told(name, {"ours": asyncio.run(judge_ours(field, folder / f"{name}-ours", drawn))}, field)
        found[name] |= _told(name, asyncio.run(judge_peers(field, drawn[:PEER_MIXES])), field)
    if smollm2 is not None and smollm2_mixes:
        name = "smollm2"
        field = make_field(smollm2, folder / f"{name}-adapters", seed=7, prompts=6, longest=60, tokens=10)
        drawn = field.mixes(7, smollm2_mixes, most_rows=8, late_s=0.5)
        found[name] = _told(name, {"ours": asyncio.run(judge_ours(field, folder / f"{name}-ours", drawn))}, field)
        found[name] |= _vllm(smollm2, folder, vllm, smollm2_mixes // 2)
    ours = [one["ours"] for one in found.values()]
    return {
        "mixes": mixes + (smollm2_mixes if smollm2 is not None else 0),
        "wrong_rows": sum(one["wrong"] for one in ours),
        "failed_rows": sum(one["failed"] for one in ours),
        "tied_rows": sum(one["tied"] for one in ours),
        "rows": sum(one["rows"] for one in ours),
        "models": found,
    }


def _vllm(base: Path, folder: Path, python: Path | None, mixes: int) -> dict[str, Any]:
    if python is None:
        return {"vLLM": {"absent": "not installed; --vllm names the Python of its environment"}}
    field = make_field(base, folder / "vllm-adapters", seed=8, prompts=4, longest=60, tokens=8, is_plain=True)
    try:
        return _told("smollm2", {"vLLM": judge_vllm(python, field, field.mixes(8, mixes, most_rows=8), folder)}, field)
    except ServerFailed as failure:
        return {"vLLM": {"absent": str(failure)}}


def _told(model: str, tallies: Mapping[str, Tally], field: Field) -> dict[str, Any]:
    seen = power(field.expected, len(field.prompts))
    for name, tally in tallies.items():
        print(
            f"{model}, {name}: of {tally.rows} rows {tally.wrong} wrong, {tally.failed} failed, {tally.tied} tied "
            f"({'–' if seen is None else format(seen, '.0%')} of mixed-up rows would be seen)",
            flush=True,
        )
    return {name: tally.as_dict() | {"power": seen} for name, tally in tallies.items()}


def main() -> None:
    """Judge, show, and end with status 1 where a row of ours is wrong or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixes", type=int, default=MIXES)
    parser.add_argument("--smollm2", type=Path, default=SMOLLM2, help="folder of the imported SmolLM2")
    parser.add_argument("--smollm2-mixes", type=int, default=SMOLLM2_MIXES)
    parser.add_argument("--vllm", type=Path, help="the Python of an environment with vLLM")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    smollm2 = options.smollm2 if options.smollm2.is_dir() else None
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            Path(folder),
            mixes=options.mixes,
            smollm2=smollm2,
            smollm2_mixes=options.smollm2_mixes,
            vllm=find_vllm(options.vllm),
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
