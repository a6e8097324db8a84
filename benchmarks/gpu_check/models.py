"""The base models that parts are tried on: tiny ones of each family, and one of Phi-2's size, which is written once."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

import torch

from benchmarks.gpu_check.parts import Setting
from benchmarks.training.cases import SEED
from benchmarks.training.models import SHAPES, PhiShape, write_base
from core.base_models.registry import IMPORTED_FILE
from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi, write_tiny_qwen2

FAMILIES: Final = {"phi": write_tiny_phi, "llama": write_tiny_llama, "qwen2": write_tiny_qwen2}
# Phi-2's heads, which kernels for half precision know: they want a width that is a multiple of 8
HEADS_OF_PHI_2: Final = PhiShape(layers=2, width=160, heads=2, rotary_share=0.4, vocabulary=320)


def own_folder(setting: Setting) -> Path:
    """Make a folder for one part."""
    return Path(tempfile.mkdtemp(dir=setting.folder))


def write_families(setting: Setting, *, half_precision: bool = False) -> dict[str, Path]:
    """Write a tiny model of each family, or of the first two in miniature; give the folders by the families' names.

    Args:
        half_precision: their heads have widths that a GPU's kernels for bfloat16 know.
    """
    folder = own_folder(setting)
    bases = {}
    for name, write in list(FAMILIES.items())[: 2 if setting.is_miniature else None]:
        bases[name] = folder / name
        if half_precision and name == "phi":
            write_base(bases[name], HEADS_OF_PHI_2, seed=SEED)
        else:
            write(bases[name])
    return bases


def large_shape(setting: Setting) -> str:
    """Name the shape of the large model; see ``benchmarks.training.models``."""
    return "phi-tiny" if setting.is_miniature else "phi-2"


def large_base(setting: Setting) -> Path:
    """Give the folder of the large model; whoever is the first to ask writes it."""
    folder = setting.folder / large_shape(setting)
    if not (folder / IMPORTED_FILE).exists():  # which is written last
        shutil.rmtree(folder, ignore_errors=True)
        write_base(folder, SHAPES[large_shape(setting)], seed=SEED, device=setting.device)
        if setting.on_gpu:
            torch.cuda.empty_cache()
    return folder
