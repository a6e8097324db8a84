"""The results that are kept: each lies with the machine that it names, and the README's table says what they say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.host.machine import RESULTS
from benchmarks.host.processes import ROOT

FILES: Final = sorted(RESULTS.glob("*/*.json"))
MACHINES: Final = ("avx512_bf16-2-cores", "avx2-2-cores")  # the table's columns
LEVELS: Final = {"avx512_bf16": "avx512_bf16", "avx512f": "avx512", "avx2": "avx2"}  # by flags, best first

TRAINING, SERVING = ("train", "cases", "phi"), ("serve", "sections")
MEDIANS: Final = (*SERVING, "http", "medians", "ours")
START: Final = (*SERVING, "start")
DECODE: Final = (*SERVING, "decode")
ROWS: Final = {
    "training, useful tokens/s": ((*TRAINING, "medians", "ours*", "useful_tokens_per_s"), "{:.0f}"),
    "the best HF Trainer, ours is": ((*TRAINING, "ratios", "hf_best"), "{:.2f} ×"),
    "TRL, tuned, ours is": ((*TRAINING, "ratios", "trl_tuned"), "{:.1f} ×"),
    "serving the base model, output tokens/s": ((*MEDIANS, "base", "output_tokens_per_s"), "{:.0f}"),
    "serving 8 adapters, output tokens/s": ((*MEDIANS, "mixed", "output_tokens_per_s"), "{:.0f}"),
    "a decode step against transformers' `generate`, 1 row": ((*DECODE, "smollm2", "generate", "1"), "{:.1f} ×"),
    "the same, 8 rows": ((*DECODE, "smollm2", "generate", "8"), "{:.1f} ×"),
    "8 adapters of rank 16 on 8 rows cost": ((*DECODE, "phi", "tax", "r16"), "{:.0%}"),
    "of the memory's rate, 1 row": ((*DECODE, "phi", "roof", "1"), "{:.0%}"),
    "first load of an adapter of 47 MB": ((*SERVING, "cold", "cold_load_ms"), "{:.0f} ms"),
    "engine ready, the first time": ((*START, "beside_0", "first", "ready_s"), "{:.1f} s"),
    "engine ready, after that": ((*START, "beside_0", "second", "ready_s"), "{:.1f} s"),
    "whole product ready, the first time": ((*START, "stack", "first", "ready_s"), "{:.1f} s"),
    "whole product ready, after that": ((*START, "stack", "second", "ready_s"), "{:.1f} s"),
}


def list_machines(found: Any) -> Iterator[dict[str, Any]]:
    """List every machine that a part of a result names."""
    if isinstance(found, dict):
        if "machine" in found:
            yield found["machine"]
        for part in found.values():
            yield from list_machines(part)


def name_of(machine: dict[str, Any]) -> str:
    """Name it as it names itself, or by its flags where it was measured before machines did."""
    flags = machine["cpu"].rpartition(", ")[2].split()
    level = machine.get("cpu_level") or next(level for flag, level in LEVELS.items() if flag in flags)
    return f"{level}-{machine['cores']}-cores"


def find(machine: str, path: tuple[str, ...]) -> float | None:
    """Give a figure; ``ours*`` is ours in whichever number type. None: it was not measured there."""
    benchmark, *keys = path
    file = RESULTS / machine / f"{benchmark}.json"
    value: Any = json.loads(file.read_text()) if file.exists() else {}
    for key in keys:
        name = next((name for name in value if name.startswith(key[:-1])), key) if key.endswith("*") else key
        if name not in value:
            return None
        value = value[name]
    return float(value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_kept_result_lies_in_the_folder_of_the_machine_that_it_names(file: Path) -> None:
    named = {name_of(machine) for machine in list_machines(json.loads(file.read_text()))}
    assert named == {file.parent.name}


@pytest.mark.parametrize("label", ROWS)
def test_the_readmes_table_of_machines_says_what_the_results_say(label: str) -> None:
    path, written = ROWS[label]
    cells = []
    for machine in MACHINES:
        figure = find(machine, path)
        cells.append("not measured" if figure is None else written.format(figure).replace("%", " %"))
    assert f"| {label} | {' | '.join(cells)} |" in (ROOT / "README.md").read_text("utf-8").splitlines()


def test_every_row_of_the_table_is_held_against_the_results() -> None:
    _, _, table = (ROOT / "README.md").read_text("utf-8").partition("## Which machine gives what\n")
    lines = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    _, _, *rows = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert rows == list(ROWS)
