"""Base models as engines take them; what transformers says of one is asked once in a test run."""

import shutil
import tempfile
from atexit import register
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from core.base_models.registry import IMPORTED_FILE, compute_fingerprint, read_imported
from worker.models.serving import EngineModel, open_engine_model


def serve(folder: Path, **how: Any) -> EngineModel:
    """Open a model's folder for an engine."""
    return open_engine_model(folder, run_references(), **how)


def serve_fp32(folder: Path) -> EngineModel:
    return serve(folder, dtype="float32")


@lru_cache(maxsize=1)
def run_references() -> Path:
    """Give the run's folder for what transformers says."""
    folder = Path(tempfile.mkdtemp(prefix="loramill-references-"))
    register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def copy_with_tensor(source: Path, folder: Path, name: str, change: Callable[[Tensor], object]) -> Path:
    """Copy an imported model of one weight file, with one of its tensors changed in place."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    imported = read_imported(folder).model_copy(update={"fingerprint": compute_fingerprint(folder)})
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return folder
