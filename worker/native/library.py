"""Loads a library of kernels so that they run on the threads that torch has; knows nothing of what they compute."""

import ctypes
from pathlib import Path
from typing import Final

from worker.native.compiling import NotBuilt, Sources, find_or_compile
from worker.native.levels import Level

OPENMP: Final = ("libgomp", "libomp", "libiomp5")


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
