"""On what a benchmark ran: the processor, what else kept it busy, and the versions of the libraries. No torch."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy")


def describe() -> dict[str, Any]:
    """Give what a reader needs to judge the figures, as of now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
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
