"""Loads the trainer's kernels where they are faster than torch, and holds them against it before anybody uses them.

Where there are none, and on the levels of CPU that they were not measured on, torch's own operations train.
"""

import logging
from pathlib import Path
from typing import Final

import torch

from worker.native.compiling import TRAINER, NotBuilt
from worker.native.levels import choose_level
from worker.native.library import load_library
from worker.training.native.check import find_difference
from worker.training.native.kernels import TrainerKernels

logger = logging.getLogger(__name__)

# Levels at which training in float32 was measured to be faster with them. Where the CPU multiplies bfloat16, training
# is in that, which the kernels do not know.
LEVELS: Final = ("avx2",)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> TrainerKernels | None:
    """Give this machine's kernels; None where torch trains, with a line in the log if that is slower.

    Those that are not built yet are built into ``folder``. A library there is run as code: nobody else may write there.
    """
    level = choose_level(None)
    if device.type != "cpu" or dtype != torch.float32 or level.name not in LEVELS:
        return None
    try:
        kernels = TrainerKernels(*load_library(TRAINER, folder, level))
    except (NotBuilt, OSError) as reason:
        logger.warning("Native kernels are not used, training is slower: %s", reason)
        return None
    difference = find_difference(kernels)
    if difference is not None:
        logger.warning("Native kernels are not used, training is slower: %s differs from torch", difference)
        return None
    return kernels
