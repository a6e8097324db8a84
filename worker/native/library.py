"""Loads a library of kernels so that they run on the threads that torch has, if what they compute is right.

What they compute, and how that is held against torch, is the engine's and the trainer's matter.
"""

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from core.process.cpu_levels import Level
from worker.native.compiling import NotBuilt, Sources, find_or_compile

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

OPENMP: Final = ("libgomp", "libomp", "libiomp5")


def load_checked(
    sources: Sources,
    folder: Path,
    level: Level,
    make: Callable[[ctypes.CDLL, str], Loaded],
    find_difference: Callable[[Loaded], str | None],
    *,
    slower: str,
) -> Loaded | None:
    """Give a level's kernels, as ``make`` makes them of the library and its name; None, and a line in the log: none.

    Those that are not built yet are built into ``folder``. A library there is run as code: nobody else may write there.

    Args:
        find_difference: gives the name of a kernel that computes something else than torch.
        slower: what is, without them.
    """
    try:
        kernels = make(*load_library(sources, folder, level))
    except (NotBuilt, OSError) as reason:
        logger.warning("Native kernels are not used, %s is slower: %s", slower, reason)
        return None
    difference = find_difference(kernels)
    if difference is not None:
        logger.warning("Native kernels are not used, %s is slower: %s differs from torch", slower, difference)
        return None
    return kernels


def load_library(sources: Sources, folder: Path, level: Level) -> tuple[ctypes.CDLL, str]:
    """Give a level's library, built into ``folder`` unless it is there, and its name; torch has been imported.

    Raises:
        NotBuilt: it cannot be compiled, or torch's threads are of a kind that is not known here.
        OSError: the folder cannot be written, or the library not be loaded.
    """
    library = find_or_compile(sources, folder, level)
    ctypes.CDLL(_find_openmp(), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library)), library.stem


def _find_openmp() -> str:
    """Give the OpenMP runtime that torch has loaded into this process.

    Raises:
        NotBuilt: it is none that is known here.
    """
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(OPENMP):
            return path
    raise NotBuilt("torch has loaded no OpenMP runtime that is known here")
