"""What a machine is as far as times on it depend on that, in words: what was timed on one says nothing of another."""

import os
import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> str:
    """Name the processor, what it can do, how many of its cores we may use, and the torch that uses them."""
    parts = [_cpu(), f"{len(os.sched_getaffinity(0))} cores", f"{torch.get_num_threads()} threads"]
    parts.append(f"torch {torch.__version__} for {torch.backends.cpu.get_cpu_capability()}")
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "model\t", "CPU part"))]
    return " ".join(dict.fromkeys(named)) or platform.machine()
