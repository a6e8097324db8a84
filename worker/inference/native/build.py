"""Loads the kernels of this machine, and has them held against torch before anybody uses them.

How they are compiled is ``compiling``'s; where there are none the engine uses torch's own operations.
"""

import ctypes
import logging
from pathlib import Path

from worker.inference.native.check import find_difference
from worker.inference.native.compiling import NotBuilt, find_or_compile
from worker.inference.native.kernels import Kernels

logger = logging.getLogger(__name__)


def load(folder: Path) -> Kernels | None:
    """Give this machine's kernels, built into ``folder`` unless they are there; None, and a line in the log, if not.

    Several processes may do so at once. A library in ``folder`` is run as code: nobody else may write there.
    """
    try:
        library = find_or_compile(folder)
        kernels = Kernels(ctypes.CDLL(str(library)), library.stem)
    except (NotBuilt, OSError) as reason:
        logger.warning("Native kernels are not used, decoding is slower: %s", reason)
        return None
    difference = find_difference(kernels)
    if difference is not None:
        logger.warning("Native kernels are not used, decoding is slower: %s differs from torch", difference)
        return None
    return kernels
