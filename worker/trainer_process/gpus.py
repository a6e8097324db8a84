"""How many GPUs a trainer started here would see. Torch-free: asks NVIDIA's own tool, and CUDA's variable."""

import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from core.process.gpu import VISIBLE

_TIMEOUT_S: Final = 30.0  # the driver of an idle machine wakes slowly


def count_gpus(environ: Mapping[str, str]) -> int:
    """Count the GPUs that CUDA shows to a process with this environment; 0 where there is no driver."""
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if listed.returncode != 0:
        return 0
    return visible(listed.stdout, environ.get(VISIBLE))


def visible(listing: str, chosen: str | None) -> int:
    """Count what ``nvidia-smi -L`` lists and ``CUDA_VISIBLE_DEVICES`` lets through; of slices of GPUs CUDA shows one.

    The variable is read as CUDA does: up to the first entry that is no device, such as -1.
    """
    lines = listing.splitlines()
    if any(line.lstrip().startswith("MIG ") for line in lines):
        return 1
    there = sum(line.startswith("GPU ") for line in lines)
    if chosen is None:
        return there
    allowed = 0
    for entry in chosen.split(","):
        name = entry.strip()
        if not (int(name) < there if name.isdigit() else name and f"(UUID: {name}" in listing):
            break
        allowed += 1
    return allowed
