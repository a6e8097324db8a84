"""Loads the kernels of this machine, and has them held against torch before anybody uses them.

How they are compiled is ``worker.native.compiling``'s; where there are none the engine uses torch's own operations.
"""

from pathlib import Path

from core.process.cpu_levels import choose_level
from core.settings import CpuLevel
from worker.inference.native.check import find_difference
from worker.inference.native.kernels import Kernels
from worker.native.compiling import ENGINE
from worker.native.library import load_checked


def load(folder: Path, cpu_level: CpuLevel | None = None) -> Kernels | None:
    """Give the kernels of `choose_level`; None, and a line in the log, if there are none.

    Those that are not built yet are built into ``folder``. A library there is run as code: nobody else may write there.

    Raises:
        SettingsInvalid: this machine does not have that level.
    """
    level = choose_level(cpu_level)
    return load_checked(ENGINE, folder, level, Kernels, find_difference, slower="decoding")
