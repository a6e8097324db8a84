"""Takes an adapter's files from the store and refuses whatever is not exactly an adapter of this base model.

Nothing here trusts a file: every read is bounded, every byte is covered by a digest, every tensor must
belong to a layer of the model. Which adapters are kept in memory is ``adapters``' matter.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from core.errors import AdapterInvalid, AdapterMismatch, BlobNotFound, InvalidParameter
from core.serving.adapter_format import (
    CONFIG,
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    WEIGHTS,
    FileDigest,
    Manifest,
    digest_text,
    parse_manifest,
)
from core.serving.rendering_check import find_drift
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.inference.adapters.peft_config import parse_config, resolve_layers
from worker.inference.adapters.strict_json import parse_object, shown
from worker.inference.adapters.weights import PairReader, PairShape
from worker.inference.adapters.weights_file import HEADER_LIMIT_BYTES, WeightsFile
from worker.inference.lora.adapter import Adapter

CONFIG_LIMIT_BYTES = 2**16


class TargetLayer(Protocol):
    """A linear layer of the base model, as far as an adapter must know it; its weight may be packed."""

    in_features: int
    out_features: int


@dataclass(frozen=True)
class Fit:
    """The base model that an adapter must fit.

    ``weight_of`` gives a layer's weight_OI in any dtype; ``max_rank`` is the widest adapter there is room for.
    """

    fingerprint: str
    tokenizer: TextTokenizer
    layers: Mapping[str, TargetLayer]
    weight_of: Callable[[str], Tensor]
    device: torch.device
    dtype: torch.dtype
    max_rank: int


@dataclass(frozen=True)
class OpenedAdapter:
    """An adapter whose manifest and config were verified, and whose weights are yet to be read.

    ``bytes`` is what it will take in memory.
    """

    digest: str
    bytes: int
    renderer: Renderer
    shapes: Mapping[str, PairShape]
    weights: FileDigest
    blobs: BlobStore
    fit: Fit

    def read(self) -> Adapter:
        """Read and check the weights, and put them into the model's dtype and onto its device.

        Besides them, only the largest tensor is held in memory.

        Raises:
            AdapterInvalid: the file is missing, damaged, or holds something else.
        """
        reader = PairReader(self.digest, self.shapes, self.fit.weight_of, self.fit.device, self.fit.dtype)
        with _refusing(self.digest), self.blobs.open(self.weights.sha256) as stored:
            file = WeightsFile(self.digest, stored, self.weights)
            try:
                pairs = reader.read(file)
            except AdapterInvalid:
                file.check_digest()  # what is wrong may come of damage, which is then what to report
                raise
            file.check_digest()
        return Adapter(self.digest, pairs, self.renderer, self.bytes)


def open_adapter(digest: str, blobs: BlobStore, fit: Fit) -> OpenedAdapter:
    """Read and check all but the weights of the adapter whose manifest has this digest.

    Raises:
        AdapterMismatch: it was made for another base model.
        AdapterInvalid: anything about it is missing, damaged, unsafe, or not implemented.
    """
    with _refusing(digest):
        return _Opener(digest, blobs, fit).open()


class _Opener:
    """One adapter's way from stored bytes to what its weights must be; every refusal names what is at fault."""

    def __init__(self, digest: str, blobs: BlobStore, fit: Fit) -> None:
        self._digest = digest
        self._blobs = blobs
        self._fit = fit

    def open(self) -> OpenedAdapter:
        manifest = self._read_manifest()
        renderer = self._check_rendering(manifest)
        shapes = self._shapes(self._read_config(manifest))
        size_bytes = sum(shape.bytes(self._fit.dtype) for shape in shapes.values())
        weights = _listed(manifest, WEIGHTS)
        # A file may be in float32 although the model is in bfloat16, but in nothing wider.
        numbers = sum(shape.bytes(torch.float32) for shape in shapes.values())
        self._check_size(WEIGHTS, weights, HEADER_LIMIT_BYTES + numbers)
        return OpenedAdapter(self._digest, size_bytes, renderer, shapes, weights, self._blobs, self._fit)

    def _refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        raise AdapterInvalid(self._digest, reason) from cause

    def _read_blob(self, name: str, sha256: str, limit_bytes: int) -> bytes:
        with self._blobs.open(sha256) as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            self._refuse(f"{name} is larger than {limit_bytes:,} bytes")
        if hashlib.sha256(content).hexdigest() != sha256:
            self._refuse(f"{name} is damaged: its stored bytes do not have its digest {sha256[:12]}")
        return content

    def _read_manifest(self) -> Manifest:
        content = self._read_blob(MANIFEST, self._digest, MANIFEST_LIMIT_BYTES)
        manifest = parse_manifest(content)
        try:
            parse_object(content)
        except ValueError as error:
            self._refuse(f"its manifest is malformed: {error}", error)
        if manifest.base_model_fingerprint != self._fit.fingerprint:
            raise AdapterMismatch(
                self._digest,
                f"it was trained on {shown(manifest.base_model)} with fingerprint "
                f"{manifest.base_model_fingerprint[:20]}, but this engine's base model has "
                f"{self._fit.fingerprint[:20]}",
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
        difference = "" if drift is None else f"; {drift}"
        if manifest.tokenizer_sha256 != tokenizer.digest:
            self._refuse(f"it was trained with another tokenizer than this engine's{difference}")
        template = tokenizer.chat_template
        template_sha256 = None if template is None else digest_text(template)
        if manifest.example_format == "messages" and manifest.chat_template_sha256 != template_sha256:
            self._refuse(f"it was trained with another chat template than this engine's{difference}")
        if drift is not None:
            self._refuse(drift)
        return renderer

    def _read_config(self, manifest: Manifest) -> bytes:
        listed = _listed(manifest, CONFIG)
        self._check_size(CONFIG, listed, CONFIG_LIMIT_BYTES)
        content = self._read_blob(CONFIG, listed.sha256, CONFIG_LIMIT_BYTES)
        if len(content) != listed.bytes:
            self._refuse(f"{CONFIG} has {len(content):,} bytes, the manifest says {listed.bytes:,}")
        return content

    def _check_size(self, name: str, listed: FileDigest, limit_bytes: int) -> None:
        if listed.bytes > limit_bytes:
            self._refuse(f"{name} has {listed.bytes:,} bytes, {limit_bytes:,} are allowed")

    def _shapes(self, content: bytes) -> dict[str, PairShape]:
        """Give what each layer's pair must be like, by the config and the base model."""
        config = parse_config(self._digest, content)
        shapes = {}
        for name, (rank, scale) in resolve_layers(self._digest, config, self._fit.layers).items():
            if rank > self._fit.max_rank:
                self._refuse(
                    f"layer {name} has rank {rank}, and this engine has room for {self._fit.max_rank}; "
                    "raise LORAMILL_ENGINE_LORA_COLUMNS"
                )
            layer = self._fit.layers[name]
            shapes[name] = PairShape(layer.in_features, layer.out_features, rank, scale, config.use_dora)
        return shapes


def _listed(manifest: Manifest, name: str) -> FileDigest:
    return next(digest for listed_name, digest in manifest.files.items() if listed_name == name)


@contextmanager
def _refusing(digest: str) -> Iterator[None]:
    """Make what the store raises a refusal of the adapter.

    An error of the disk must not be taken for a mistake of the engine's: only this adapter suffers.
    """
    try:
        yield
    except BlobNotFound as error:
        raise AdapterInvalid(digest, f"a file of it is not stored: {error}") from error
    except OSError as error:
        raise AdapterInvalid(digest, f"a file of it cannot be read: {error}") from error
