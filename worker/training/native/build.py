"""Loads the trainer's kernels where they are faster than torch, and holds them against it before anybody uses them.

Where there are none, and on the levels of CPU that they were not measured on, torch's own operations train.
"""

from pathlib import Path

import torch

from core.process.cpu_levels import TRAINING_LEVELS, choose_level
from worker.native.compiling import TRAINER
from worker.native.library import load_checked
from worker.training.native.check import find_difference
from worker.training.native.kernels import TrainerKernels


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> TrainerKernels | None:
    """Give this machine's kernels; None where torch trains, with a line in the log if that is slower.

    Those that are not built yet are built into ``folder``. A library there is run as code: nobody else may write there.
    """
    level = choose_level(None)
    if device.type != "cpu" or dtype != torch.float32 or level.name not in TRAINING_LEVELS:
        return None
    return load_checked(TRAINER, folder, level, TrainerKernels, find_difference, slower="training")
