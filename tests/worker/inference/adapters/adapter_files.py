"""Adapters' files for tests: random ones that PEFT writes, completed and stored as the trainer and the worker do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from core.base_models.registry import read_imported
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS, AdapterOrigin, write_manifest
from core.store.blobs import LocalBlobStore
from core.text.tokenizer import TextTokenizer
from worker.inference.adapters.verification import Fit
from worker.inference.model.contract import TargetLayer
from worker.models.loading import LoadedModel, load_base_model

ALL_LAYERS = {
    "tiny-phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "tiny-llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "tiny-qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "smollm2-135m-instruct": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def fit_of(loaded: LoadedModel, *, max_rank: int = 256) -> Fit:
    """Describe a model as an adapter must fit it, all of its linear layers being what adapters can change."""
    linear = {name: module for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)}
    return Fit(
        fingerprint=loaded.fingerprint,
        tokenizer=loaded.tokenizer,
        layers={name: TargetLayer(layer.in_features, layer.out_features) for name, layer in linear.items()},
        weight_of=lambda name: linear[name].weight.detach(),
        device=loaded.device,
        dtype=loaded.dtype,
        max_rank=max_rank,
    )


def load_fp32(base_folder: Path) -> LoadedModel:
    return load_base_model(base_folder, dtype="float32")


def write_adapter(
    base_folder: Path,
    folder: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    std: float = 0.3,
    targets: Sequence[str] = (),
    use_rslora: bool = False,
    use_dora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, int] | None = None,
) -> str:
    """Write a random adapter as the trainer would, by default on all layers; give its digest.

    ``std`` is that of both factors; with PEFT's own start values an adapter would change nothing. DoRA's lengths
    are changed by as much, each by its own share.
    """
    imported = read_imported(base_folder)
    targets = targets or ALL_LAYERS[imported.name]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        use_rslora=use_rslora,
        use_dora=use_dora,
        rank_pattern=dict(rank_pattern or {}),
        alpha_pattern=dict(alpha_pattern or {}),
    )
    peft = get_peft_model(load_fp32(base_folder).model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data *= torch.empty_like(parameter).uniform_(1 - std, 1 + std, generator=generator)
        elif "lora_" in name:
            parameter.data.normal_(std=std, generator=generator)
    peft.save_pretrained(str(folder))
    return complete_adapter(base_folder, folder, rank=rank, targets=targets)


def complete_adapter(
    base_folder: Path, folder: Path, *, rank: int = 4, targets: Sequence[str] = (), **changes: Any
) -> str:
    """Write the manifest over whatever the folder's two files hold; ``changes`` replace what it says."""
    imported = read_imported(base_folder)
    says: dict[str, Any] = {
        "base_model": imported.name,
        "base_model_fingerprint": imported.fingerprint,
        "tokenizer_sha256": TextTokenizer.from_folder(base_folder).digest,
        "chat_template_sha256": None,
        "example_format": "prompt_completion",
        "prompt_format": None,
        "prompts": (),
        "job_id": "ftjob-test",
        "step": 1,
        "trained_on": "random numbers",
        "lora": LoraSpec(rank=rank, alpha=2 * rank, target_modules=tuple(targets) or None),
    }
    return write_manifest(folder, AdapterOrigin(**{**says, **changes}))


def store_adapter(folder: Path, blobs: LocalBlobStore) -> str:
    """Put an adapter's files and manifest into the store, as the worker does; give the adapter's digest."""
    blobs.put_file(folder / WEIGHTS)
    blobs.put_file(folder / CONFIG)
    return blobs.put_file(folder / MANIFEST).sha256


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of an adapter's adapter_config.json."""
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
