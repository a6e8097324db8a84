"""Reads an adapter's files from the store and refuses whatever is not exactly an adapter of this base model.

Nothing here trusts a file: every read is bounded, every byte is covered by a digest, every tensor must
belong to a layer of the model. Which adapters are kept in memory is ``adapters``' matter.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from core.adapter_format import (
    CONFIG,
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    WEIGHTS,
    Manifest,
    digest_text,
    parse_manifest,
)
from core.errors import AdapterInvalid, BlobNotFound, InvalidParameter
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.inference.drift import find_drift
from worker.inference.lora import Adapter, LoraPair, gain_of

CONFIG_LIMIT_BYTES: Final = 2**16
HEADER_LIMIT_BYTES: Final = 2**23  # a LoRA on every layer of a 7 B model needs about 100 kB
MAX_RANK: Final = 256

_TENSOR_NAME: Final = re.compile(
    r"base_model\.model\.(?P<layer>.+)\.(?:(?P<factor>lora_[AB])\.weight|(?P<length>lora_magnitude_vector))"
)
_STORED_DTYPES: Final = (torch.float32, torch.bfloat16)


class _LoraConfig(BaseModel):
    """The fields of PEFT's adapter_config.json that decide what an adapter computes.

    Any other field must be off (null, false or empty), or be one of ``_INERT``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    peft_type: str = Field(pattern="^LORA$")
    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0, le=2**16, allow_inf_nan=False)
    target_modules: list[str] = Field(min_length=1, max_length=1024)
    bias: str = Field(pattern="^none$")
    use_rslora: bool = False
    use_dora: bool = False

    @property
    def scale(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def parts(self) -> tuple[str, ...]:
        """Which tensors each target module has, by PEFT's names."""
        return ("lora_A", "lora_B", "lora_magnitude_vector") if self.use_dora else ("lora_A", "lora_B")


# What these say about training or about the file's origin changes nothing in what the adapter computes.
_INERT: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",  # read only with use_qalora, which must be off
        "revision",
        "task_type",
    }
)
# Other initialisations change the base model's own weights, which are not in an adapter's files.
_PLAIN_INITIALISATIONS: Final = (True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class Fit:
    """The base model that an adapter must fit."""

    fingerprint: str
    tokenizer: TextTokenizer
    layers: Mapping[str, nn.Linear]
    device: torch.device
    dtype: torch.dtype


def read_adapter(digest: str, blobs: BlobStore, fit: Fit, *, limit_bytes: int) -> Adapter:
    """Read and check the adapter whose manifest has this digest, and move it to the model's device and dtype.

    ``limit_bytes`` bounds what the adapter may take in memory.

    Raises:
        AdapterInvalid: anything about it is missing, damaged, unsafe, or made for another model.
    """
    try:
        return _Reader(digest, blobs, fit, limit_bytes).read()
    except BlobNotFound as error:
        raise AdapterInvalid(digest, f"a file of it is not stored: {error}") from error


class _Reader:
    """One adapter's way from stored bytes to tensors; every refusal names what is at fault."""

    def __init__(self, digest: str, blobs: BlobStore, fit: Fit, limit_bytes: int) -> None:
        self._digest = digest
        self._blobs = blobs
        self._fit = fit
        self._limit_bytes = limit_bytes

    def read(self) -> Adapter:
        manifest = self._read_manifest()
        renderer = self._check_rendering(manifest)
        config = self._read_config(manifest)
        tensors = self._read_tensors(manifest)
        layers = self._target_layers(config)
        pairs = self._pair(tensors, layers, config)
        size_bytes = sum(pair.bytes for pair in pairs.values())
        return Adapter(self._digest, pairs, renderer, size_bytes)

    def _refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        raise AdapterInvalid(self._digest, reason) from cause

    def _read_blob(self, name: str, sha256: str, limit_bytes: int) -> bytes:
        with self._blobs.open(sha256) as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            self._refuse(f"{name} is larger than {limit_bytes:,} bytes")
        if hashlib.sha256(content).hexdigest() != sha256:
            self._refuse(f"the stored bytes of {name} do not have its digest {sha256[:12]}")
        return content

    def _read_manifest(self) -> Manifest:
        manifest = parse_manifest(self._read_blob(MANIFEST, self._digest, MANIFEST_LIMIT_BYTES))
        if manifest.base_model_fingerprint != self._fit.fingerprint:
            self._refuse(
                f"it was trained on {manifest.base_model} with fingerprint {manifest.base_model_fingerprint[:20]}, "
                f"but this engine's base model has {self._fit.fingerprint[:20]}"
            )
        return manifest

    def _check_rendering(self, manifest: Manifest) -> Renderer:
        """Give what renders the adapter's prompts, once it gives what the adapter was trained on."""
        tokenizer = self._fit.tokenizer
        try:
            renderer = Renderer(tokenizer, prompt_format=manifest.prompt_format)
        except InvalidParameter as error:
            self._refuse(f"its prompt format is malformed: {error}", error)
        drift = find_drift(manifest.prompts, renderer, tokenizer)
        shown = "" if drift is None else f"; {drift}"
        if manifest.tokenizer_sha256 != tokenizer.digest:
            self._refuse(f"it was trained with another tokenizer than this engine's{shown}")
        template = tokenizer.chat_template
        template_sha256 = None if template is None else digest_text(template)
        if manifest.example_format == "messages" and manifest.chat_template_sha256 != template_sha256:
            self._refuse(f"it was trained with another chat template than this engine's{shown}")
        if drift is not None:
            self._refuse(drift)
        return renderer

    def _read_file(self, manifest: Manifest, name: str, limit_bytes: int) -> bytes:
        listed = next(digest for listed_name, digest in manifest.files.items() if listed_name == name)
        if listed.bytes > limit_bytes:
            self._refuse(f"{name} has {listed.bytes:,} bytes, {limit_bytes:,} are allowed")
        content = self._read_blob(name, listed.sha256, limit_bytes)
        if len(content) != listed.bytes:
            self._refuse(f"{name} has {len(content):,} bytes, the manifest says {listed.bytes:,}")
        return content

    def _read_config(self, manifest: Manifest) -> _LoraConfig:
        content = self._read_file(manifest, CONFIG, CONFIG_LIMIT_BYTES)
        try:
            config = _LoraConfig.model_validate(json.loads(content))
        except ValidationError as error:
            first = error.errors()[0]
            self._refuse(f"{CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}", error)
        except (ValueError, RecursionError) as error:
            self._refuse(f"{CONFIG} is not JSON", error)
        for key, value in (config.model_extra or {}).items():
            if not _is_neutral(key, value):
                self._refuse(f"{CONFIG}: {key} is set, which this engine does not implement")
        return config

    def _target_layers(self, config: _LoraConfig) -> set[str]:
        """Resolve target modules as PEFT does: a whole name, or its last parts."""
        chosen: set[str] = set()
        for target in config.target_modules:
            matched = {name for name in self._fit.layers if name == target or name.endswith(f".{target}")}
            if not matched:
                self._refuse(f"{CONFIG}: target module {target!r} names no linear layer of the base model")
            chosen |= matched
        return chosen

    def _read_tensors(self, manifest: Manifest) -> dict[str, Tensor]:
        """Parse the weights. The file may be in float32 although the model, and so the limit, is in bfloat16."""
        limit_bytes = self._limit_bytes * torch.float32.itemsize // self._fit.dtype.itemsize
        content = self._read_file(manifest, WEIGHTS, HEADER_LIMIT_BYTES + limit_bytes)
        if len(content) < 8:
            self._refuse(f"{WEIGHTS} is cut short")
        (header_bytes,) = struct.unpack("<Q", content[:8])
        if header_bytes > min(HEADER_LIMIT_BYTES, len(content) - 8):
            self._refuse(f"{WEIGHTS} is no safetensors file, or its header is over {HEADER_LIMIT_BYTES:,} bytes")
        try:
            return parse_safetensors(content)
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            self._refuse(f"{WEIGHTS} is no valid safetensors file: {error}", error)

    def _pair(self, tensors: dict[str, Tensor], layers: set[str], config: _LoraConfig) -> dict[str, LoraPair]:
        stored: dict[tuple[str, str], Tensor] = {}
        taken: dict[tuple[str, str], Tensor] = {}
        for key, tensor in tensors.items():
            match = _TENSOR_NAME.fullmatch(key)
            part = match and (match["factor"] or match["length"])
            if match is None or part not in config.parts or match["layer"] not in layers:
                self._refuse(f"tensor {key!r} belongs to no target module of the base model")
            stored[match["layer"], part] = tensor
            taken[match["layer"], part] = self._take(key, tensor, self._shape(match["layer"], part, config.r))
        for layer in sorted(layers):
            for part in config.parts:
                if (layer, part) not in taken:
                    self._refuse(f"layer {layer} has no {part} tensor")
        return {
            layer: LoraPair(
                taken[layer, "lora_A"],
                taken[layer, "lora_B"],
                config.scale,
                self._gain({part: stored[layer, part] for part in config.parts}, layer, config),
            )
            for layer in sorted(layers)
        }

    def _gain(self, stored: dict[str, Tensor], layer: str, config: _LoraConfig) -> Tensor | None:
        """Derive DoRA's gain from the tensors as they are stored: the model's dtype may be too coarse for it."""
        if not config.use_dora:
            return None
        length_O, a_RI, b_OR = (
            stored[part].to(self._fit.device) for part in ("lora_magnitude_vector", "lora_A", "lora_B")
        )
        gain_O = gain_of(length_O, self._fit.layers[layer].weight, a_RI, b_OR, config.scale)
        if not bool(torch.isfinite(gain_O).all()):
            self._refuse(f"layer {layer} has a row of length 0, which cannot be stretched")
        return gain_O

    def _shape(self, layer: str, part: str, rank: int) -> tuple[int, ...]:
        linear = self._fit.layers[layer]
        match part:
            case "lora_A":
                return (rank, linear.in_features)
            case "lora_B":
                return (linear.out_features, rank)
            case _:
                return (linear.out_features,)

    def _take(self, key: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(tensor.shape) != shape:
            self._refuse(f"tensor {key!r} has shape {list(tensor.shape)}, the base model needs {list(shape)}")
        if tensor.dtype not in _STORED_DTYPES:
            self._refuse(f"tensor {key!r} is {tensor.dtype}, not float32 or bfloat16")
        # the copy keeps a slice from holding the whole file in memory
        taken = tensor.to(self._fit.device, self._fit.dtype, copy=True)
        if not bool(torch.isfinite(taken).all()):
            self._refuse(f"tensor {key!r} has values that are not finite")
        return taken


def _is_neutral(key: str, value: Any) -> bool:
    if key == "init_lora_weights":
        return value in _PLAIN_INITIALISATIONS
    return key in _INERT or not value
