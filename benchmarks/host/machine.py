"""On what a benchmark ran: the processor, what else kept it busy, the versions of the libraries. No torch.

Also where its result is kept, which is the machine's own folder, so that none writes over another's figures.
"""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from core.process.cpu_levels import choose_level

LIBRARIES: Final = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy")
RESULTS: Final = Path(__file__).resolve().parents[1] / "results"


def name_machine() -> str:
    """Name this machine by its level of CPU and its cores, which decide its figures: ``avx2-2-cores``."""
    return f"{choose_level(None).name}-{_count_cores()}-cores"


def result_file(benchmark: str) -> Path:
    """Give where this machine's result of a benchmark is kept."""
    return RESULTS / name_machine() / f"{benchmark}.json"


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result whole or not at all, into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.replace(path)


def describe() -> dict[str, Any]:
    """Give what a reader needs to judge the figures, as of now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cpu_level": choose_level(None).name,
        "cores": _count_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": list(os.getloadavg()),  # over 1, 5 and 15 minutes
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := find_version(name)) is not None},
    }


def find_version(distribution: str) -> str | None:
    """Give an installed distribution's version; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _count_cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu() -> str:
    """Name the processor as Linux does, with the instructions that matter here."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    there = set(facts.get("flags", "").split())
    named = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in there]
    model = f"{facts.get('model name', platform.machine())} family {facts.get('cpu family')} model {facts.get('model')}"
    return f"{model}, {' '.join(named)}"
