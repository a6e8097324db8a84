"""Random adapters in PEFT's format, as large as trained ones: for our engine, for PEFT and for vLLM alike.

Written without a model: only the names and shapes of the base model's linear layers are read. What an adapter says
does not matter, but that it says something else than the base model does.

``python -m benchmarks.serving.adapters BASE FOLDER SPECS`` writes several (SPECS is a JSON list of `AdapterSpec`).
"""

import argparse
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.serving.adapter_spec import AdapterSpec
from core.base_models.registry import read_imported, weight_files
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import CONFIG, WEIGHTS, AdapterOrigin, write_manifest
from core.text.tokenizer import TextTokenizer

_LAYER: Final = re.compile(r"(?P<name>model\.layers\.\d+\..+)\.weight")


@dataclass(frozen=True)
class Linear:
    """A base model's linear layer: its weights' shape (O, I) and spread."""

    out_features: int
    in_features: int
    std: float


@functools.lru_cache(maxsize=4)
def list_linears(base: Path) -> dict[str, Linear]:
    """List the linear layers of a base model's blocks by name."""
    linears = {}
    for file in weight_files(base):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - it is no mapping
                match = _LAYER.fullmatch(key)
                if match is None or len(stored.get_slice(key).get_shape()) != 2:
                    continue
                weight_OI: Tensor = stored.get_tensor(key)
                outs, ins = weight_OI.shape
                linears[match["name"]] = Linear(outs, ins, std=float(weight_OI[:64].float().std()))
    return linears


def write_adapter(base: Path, folder: Path, spec: AdapterSpec) -> Path:
    """Write an adapter as the trainer would: weights, PEFT's config, manifest."""
    folder.mkdir(parents=True)
    layers = {
        name: linear
        for name, linear in list_linears(base).items()
        if not spec.targets or name.rsplit(".", 1)[-1] in spec.targets
    }
    tensors: dict[str, Tensor] = {}
    for name, (a_RI, b_OR) in factors(layers, spec).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a_RI
        tensors[f"base_model.model.{name}.lora_B.weight"] = b_OR
    save_file(tensors, folder / WEIGHTS)
    targets = sorted({name.rsplit(".", 1)[-1] for name in layers})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": spec.rank,
        "lora_alpha": spec.lora_alpha,
        "rank_pattern": dict(spec.ranks),
        "alpha_pattern": dict(spec.alphas),
        "target_modules": targets,
        "use_rslora": spec.use_rslora,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")
    _complete(base, folder, spec, tuple(targets))
    return folder


def factors(layers: Mapping[str, Linear], spec: AdapterSpec) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw a_RI and b_OR of each layer; the same specification gives the same numbers."""
    generator = torch.Generator().manual_seed(spec.seed)
    dtype: torch.dtype = getattr(torch, spec.dtype)
    drawn = {}
    for name, linear in layers.items():
        rank = spec.rank_of(name)
        a_RI = torch.randn(rank, linear.in_features, generator=generator)
        # a delta's spread is scale · √rank · spread of A · spread of B
        spread = spec.strength * linear.std / (spec.scale_of(name) * math.sqrt(rank))
        b_OR = torch.randn(linear.out_features, rank, generator=generator) * spread
        drawn[name] = a_RI.to(dtype), b_OR.to(dtype)
    return drawn


def write_adapters(base: Path, folder: Path, specs: Sequence[AdapterSpec]) -> list[Path]:
    """Write several adapters, each into a folder of its name."""
    return [write_adapter(base, folder / spec.name, spec) for spec in specs]


def _complete(base: Path, folder: Path, spec: AdapterSpec, targets: tuple[str, ...]) -> None:
    imported = read_imported(base)
    write_manifest(
        folder,
        AdapterOrigin(
            base_model=imported.name,
            base_model_fingerprint=imported.fingerprint,
            tokenizer_sha256=TextTokenizer.from_folder(base).digest,
            chat_template_sha256=None,
            example_format="prompt_completion",
            prompt_format=None,
            prompts=(),
            job_id="ftjob-benchmark",
            step=1,
            trained_on="random numbers",
            lora=LoraSpec(rank=spec.rank, alpha=spec.lora_alpha, target_modules=targets, use_rslora=spec.use_rslora),
        ),
    )


def main() -> None:
    """Write the adapters that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("specs", help="JSON list, or @FILE that holds it")
    options = parser.parse_args()
    specs = Path(options.specs[1:]).read_text("utf-8") if options.specs.startswith("@") else options.specs
    write_adapters(options.base, options.folder, TypeAdapter(list[AdapterSpec]).validate_json(specs))


if __name__ == "__main__":
    main()
