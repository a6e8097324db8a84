"""The levels of CPU that kernels are compiled for, which of them this machine has, and which train in kernels.

What is compiled at each is up to the macros that its flags define; nothing here compiles or loads.
"""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from core.errors import SettingsInvalid
from core.settings import CpuLevel


@dataclass(frozen=True)
class Level:
    """A set of instructions.

    Attributes:
        flags: by which compilers know it.
        features: what a CPU that has it lists in /proc/cpuinfo, as far as others do not.
    """

    name: CpuLevel
    flags: tuple[str, ...]
    features: frozenset[str]


_AVX2: Final = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_AVX512: Final = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_PORTABLE: Final = Level("portable", (), frozenset())
# by what `platform.machine` says, best first
_LEVELS: Final = {
    "x86_64": (
        Level("avx512_bf16", ("-march=x86-64-v4", "-mavx512bf16"), _AVX512 | {"avx512_bf16"}),
        Level("avx512", ("-march=x86-64-v4",), _AVX512),
        Level("avx2", ("-march=x86-64-v3",), _AVX2),
        _PORTABLE,
    ),
    "aarch64": (Level("neon", (), frozenset()),),  # each has it
}


# Levels at which training in float32 was measured to be faster in kernels of our own than with torch's operations.
# Where the CPU multiplies bfloat16, training is in that, which the trainer's kernels do not know.
TRAINING_LEVELS: Final[tuple[CpuLevel, ...]] = ("avx2",)


def list_levels() -> tuple[Level, ...]:
    """Give the levels of this architecture, best first, whether this machine has them or not."""
    return _LEVELS.get(platform.machine(), (_PORTABLE,))


def list_own_levels() -> tuple[Level, ...]:
    """Give those that this machine has."""
    features = read_cpu_features()
    return tuple(level for level in list_levels() if level.features <= features)


def choose_level(name: CpuLevel | None) -> Level:
    """Give the best level that this machine has, or the one of that name.

    Raises:
        SettingsInvalid: it has none of that name.
    """
    levels = list_own_levels()
    if name is None:
        return levels[0]
    for level in levels:
        if level.name == name:
            return level
    own = ", ".join(level.name for level in levels)
    raise SettingsInvalid(f"LORAMILL_ENGINE_CPU_LEVEL is {name}, which this machine does not have; it has {own}")


@cache
def read_cpu_features() -> frozenset[str]:
    """Give what Linux says of the first CPU; nothing where it does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
