"""What is known of the machine that trains: told by a finished job, or read here where all runs on one machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from core.base_models.registry import DType
from core.estimates.estimate import EstimatedMachine, PastRun
from core.estimates.memory_plan import ComputeType
from core.process.cpu_levels import TRAINING_LEVELS, choose_level, read_cpu_features
from core.settings import Settings

_NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
_BFLOAT16_FEATURES: Final = frozenset({"avx512_bf16", "amx_bf16"})  # a CPU with either multiplies in bfloat16 quickly


@dataclass(frozen=True)
class KnownMachine:
    """What an estimate works with. ``cores`` None: how fast they are is no matter, or not known."""

    told: EstimatedMachine
    is_gpu: bool
    dtype: ComputeType
    cores: int | None
    has_kernels: bool = False  # the trainer's own


def shares_a_host(settings: Settings) -> bool:
    """Say whether all processes run on this machine, where SQLite keeps them."""
    return settings.database.startswith("sqlite")


def machine_of(settings: Settings, dtype: DType, runs: Sequence[PastRun], *, unlike: int = 1) -> KnownMachine:
    """Say what is known of a machine on which a job of this base model would run.

    Args:
        runs: that finished on it, newest first; none where none has finished anywhere.
        unlike: how many different machines finished jobs ran on, this one counted.
    """
    is_here = shares_a_host(settings)
    memory = psutil.virtual_memory()
    if runs:
        machine = runs[0].measured.machine
        is_cpu = machine.device == "cpu"
        told = EstimatedMachine(
            device=machine.device,
            memory_bytes=machine.memory_bytes,
            available_bytes=int(memory.available) if is_here and is_cpu else None,
            source=f"job {runs[0].job_id}" + (f", on one of {unlike} unlike machines" if unlike > 1 else ""),
        )
        cores = _cores() if is_here and is_cpu else None
        return KnownMachine(
            told, is_gpu=not is_cpu, dtype=_chosen(dtype, machine.dtype), cores=cores, has_kernels=machine.has_kernels
        )
    may_have_gpu = not is_here or _NVIDIA_DRIVER.exists()
    # the trainer, which has torch, times products instead
    here: ComputeType = "bfloat16" if may_have_gpu or _BFLOAT16_FEATURES & read_cpu_features() else "float32"
    if may_have_gpu:
        why = "a GPU whose memory and speed" if is_here else "workers may run on other machines, whose memory and speed"
        told = EstimatedMachine(
            device=None,
            memory_bytes=None,
            available_bytes=None,
            source=f"{why} no finished job of this base model has told yet",
        )
        return KnownMachine(told, is_gpu=True, dtype=_chosen(dtype, here), cores=None)
    told = EstimatedMachine(
        device="cpu", memory_bytes=int(memory.total), available_bytes=int(memory.available), source="this host"
    )
    chosen = _chosen(dtype, here)
    # as the trainer will find; that it can compile them, or has them, is taken for granted
    has_kernels = chosen == "float32" and choose_level(None).name in TRAINING_LEVELS
    return KnownMachine(told, is_gpu=False, dtype=chosen, cores=_cores(), has_kernels=has_kernels)


def _chosen(setting: DType, fast: ComputeType) -> ComputeType:
    return fast if setting == "auto" else setting


def _cores() -> int:
    return min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
