"""The files of an adapter, as PEFT reads them: written from a model, and read into one of the same base and shape.

What a manifest says beside them is ``core.serving.adapter_format``'s.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from core.serving.adapter_format import CONFIG, WEIGHTS
from worker.training.model.lora import LoraModel


def save_adapter(model: LoraModel, folder: Path) -> None:
    """Write PEFT's two files into an existing folder; equal adapters give equal bytes."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.parameters.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # Where the base lies on this machine means nothing elsewhere; the manifest names the base.
    config = model.peft.peft_config[model.adapter].to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    listed = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(listed, indent=1, sort_keys=True), encoding="utf-8")


def restore_adapter(model: LoraModel, folder: Path) -> None:
    """Replace the adapter's values by those that `save_adapter` wrote for the same base and shape."""
    tensors = load_file(folder / WEIGHTS, device="cpu")
    assert set(tensors) == set(model.parameters)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            parameter.copy_(tensors[name])


def is_unchanged(model: LoraModel, started_from: Path | None = None) -> bool:
    """Tell whether training left every value of B as it started: as zeros, or as in another adapter's folder."""
    start = None if started_from is None else load_file(started_from / WEIGHTS, device="cpu")
    return all(
        torch.equal(parameter.detach().cpu(), torch.zeros(parameter.shape) if start is None else start[name])
        for name, parameter in model.parameters.items()
        if ".lora_B." in name
    )
