"""What an export is made from: a base model's folder and an adapter's, read as far as every format needs them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.base_models.registry import read_config, weight_files
from core.base_models.tensor_files import list_tensors
from core.errors import AdapterInvalid, ExportDiffers
from core.exports.possible import gguf_architecture
from core.exports.spec import ExportSpec
from core.serving.adapter_format import MANIFEST, Manifest, parse_manifest
from core.text.tokenizer import TextTokenizer
from worker.exporter.gguf_names import GgufNames
from worker.exporter.merging import LayerFactors, merge, read_factors
from worker.models.stored_weights import StoredWeights


@dataclass(frozen=True)
class Subject:
    """One adapter and its base model. ``shapes`` are those of the base model's tensors, by transformers' names."""

    spec: ExportSpec
    base_folder: Path
    adapter_folder: Path
    manifest: Manifest
    tokenizer: TextTokenizer
    config: dict[str, Any]
    factors: dict[str, LayerFactors]
    shapes: dict[str, tuple[int, ...]]
    weights: StoredWeights

    @classmethod
    def read(cls, spec: ExportSpec, base_folder: Path, adapter_folder: Path) -> "Subject":
        """Read all but the weights.

        Raises:
            BaseModelInvalid: the base model's folder is damaged.
            AdapterInvalid: the adapter's is, or it does not fit the base model.
        """
        content = (adapter_folder / MANIFEST).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != spec.adapter.adapter_sha256:
            raise AdapterInvalid(spec.adapter.adapter_sha256, "its manifest is another one")
        tensors = [tensor for path in weight_files(base_folder) for tensor in list_tensors(path)]
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        factors = read_factors(adapter_folder)
        for layer, pair in factors.items():
            if shapes.get(f"{layer}.weight") != (pair.b_OR.shape[0], pair.a_RI.shape[1]):
                raise AdapterInvalid(digest, f"layer {layer} is none of the base model's, or has another shape")
        weights = StoredWeights(base_folder, torch.device("cpu"))
        weights.check(shapes)
        return cls(
            spec=spec,
            base_folder=base_folder,
            adapter_folder=adapter_folder,
            manifest=parse_manifest(content),
            tokenizer=TextTokenizer.from_folder(base_folder),
            config=read_config(base_folder),
            factors=factors,
            shapes=shapes,
            weights=weights,
        )

    @property
    def adapted(self) -> frozenset[str]:
        """The tensors that the adapter changes."""
        return frozenset(f"{layer}.weight" for layer in self.factors)

    @cached_property
    def gguf_names(self) -> GgufNames:
        architecture = gguf_architecture(self.base_folder)
        if architecture is None:
            raise ExportDiffers("the base model's architecture has no names in GGUF that are known here")
        return GgufNames.of(architecture, self.config)

    def base(self, name: str) -> Tensor:
        """Give a tensor of the base model, in float32."""
        return self.weights.read(name, torch.float32)

    def merged(self, name: str) -> Tensor:
        """Give a tensor of the base model with the adapter in it, in float32."""
        return merge(name, self.base(name), self.factors)
