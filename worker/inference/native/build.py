"""Loads the kernels of this machine, and has them held against torch before anybody uses them.

How they are compiled is ``compiling``'s; where there are none the engine uses torch's own operations.
"""

import ctypes
import logging
from pathlib import Path
from typing import Final

from core.settings import CpuLevel
from worker.inference.native.check import find_difference
from worker.inference.native.compiling import NotBuilt, find_or_compile
from worker.inference.native.kernels import Kernels
from worker.inference.native.levels import choose_level

logger = logging.getLogger(__name__)

OPENMP: Final = ("libgomp", "libomp", "libiomp5")


def load(folder: Path, cpu_level: CpuLevel | None = None) -> Kernels | None:
    """Give the kernels of `choose_level`; None, and a line in the log, if there are none.

    Those that are not built yet are built into ``folder``. A library there is run as code: nobody else may write there.

    Raises:
        SettingsInvalid: this machine does not have that level.
    """
    level = choose_level(cpu_level)
    try:
        library = find_or_compile(folder, level)
        ctypes.CDLL(_find_openmp(), ctypes.RTLD_GLOBAL)  # so that the kernels run on torch's threads
        kernels = Kernels(ctypes.CDLL(str(library)), library.stem)
    except (NotBuilt, OSError) as reason:
        logger.warning("Native kernels are not used, decoding is slower: %s", reason)
        return None
    difference = find_difference(kernels)
    if difference is not None:
        logger.warning("Native kernels are not used, decoding is slower: %s differs from torch", difference)
        return None
    return kernels


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
