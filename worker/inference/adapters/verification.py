"""Takes an adapter's files from the store and refuses whatever is not exactly an adapter of this base model.

Nothing here trusts a file: every read is bounded, every byte is covered by a digest, every tensor must
belong to a layer of the model. Whether the manifest fits the base model is ``core.serving.adapter_trust``'s to say,
which adapters are kept in memory ``cache``'s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from core.errors import AdapterInvalid
from core.serving.adapter_format import CONFIG, WEIGHTS, FileDigest, Manifest
from core.serving.adapter_tensors import PairShape, pair_shapes
from core.serving.adapter_trust import read_stored, refusing, trust_adapter, wrong_size
from core.serving.peft_config import CONFIG_LIMIT_BYTES, parse_config
from core.serving.weights_reader import BYTES_OF_NUMBER, HEADER_LIMIT_BYTES
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.inference.adapters.weights import PairReader
from worker.inference.adapters.weights_file import WeightsFile
from worker.inference.lora.adapter import Adapter
from worker.inference.model.contract import TargetLayer
from worker.inference.native.ready_memory import ReadyMemory


@dataclass(frozen=True)
class Fit:
    """The base model that an adapter must fit.

    ``weight_of`` gives a layer's weight_OI in any dtype; ``max_rank`` is the widest adapter there is room for.
    ``ready`` is where large adapters have their memory from.
    """

    fingerprint: str
    tokenizer: TextTokenizer
    layers: Mapping[str, TargetLayer]
    weight_of: Callable[[str], Tensor]
    device: torch.device
    dtype: torch.dtype
    max_rank: int
    ready: ReadyMemory = field(default_factory=ReadyMemory)


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
        fit = self.fit
        reader = PairReader(self.digest, self.shapes, fit.weight_of, fit.device, fit.dtype, fit.ready)
        with refusing(self.digest, WEIGHTS), self.blobs.open_unchecked(self.weights.sha256) as stored:
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
        AdapterMismatch: it was made for another base model, or would be fed otherwise than in training.
        AdapterInvalid: anything about it is missing, damaged, unsafe, or not implemented.
    """
    return _Opener(digest, blobs, fit).open()


class _Opener:
    """One adapter's way from stored bytes to what its weights must be; every refusal names what is at fault."""

    def __init__(self, digest: str, blobs: BlobStore, fit: Fit) -> None:
        self._digest = digest
        self._blobs = blobs
        self._fit = fit

    def open(self) -> OpenedAdapter:
        fit = self._fit
        trusted = trust_adapter(
            self._digest, self._blobs.open_unchecked, fingerprint=fit.fingerprint, tokenizer=fit.tokenizer
        )
        manifest = trusted.manifest
        shapes = self._shapes(self._read_config(manifest))
        size_bytes = sum(shape.bytes(fit.dtype.itemsize) for shape in shapes.values())
        weights = manifest.files[WEIGHTS]
        # A file may be in float32 although the model is in bfloat16, but in nothing wider.
        numbers = sum(shape.bytes(BYTES_OF_NUMBER["F32"]) for shape in shapes.values())
        self._check_size(WEIGHTS, weights, HEADER_LIMIT_BYTES + numbers)
        return OpenedAdapter(self._digest, size_bytes, trusted.renderer, shapes, weights, self._blobs, fit)

    def _refuse(self, reason: str) -> NoReturn:
        raise AdapterInvalid(self._digest, reason)

    def _read_config(self, manifest: Manifest) -> bytes:
        listed = manifest.files[CONFIG]
        self._check_size(CONFIG, listed, CONFIG_LIMIT_BYTES)
        content = read_stored(self._digest, CONFIG, listed.sha256, CONFIG_LIMIT_BYTES, self._blobs.open_unchecked)
        if len(content) != listed.bytes:
            raise wrong_size(self._digest, CONFIG, len(content), listed)
        return content

    def _check_size(self, name: str, listed: FileDigest, limit_bytes: int) -> None:
        if listed.bytes > limit_bytes:
            self._refuse(f"{name} has {listed.bytes:,} bytes, {limit_bytes:,} are allowed")

    def _shapes(self, content: bytes) -> dict[str, PairShape]:
        """Give what each layer's pair must be like, by the config and the base model."""
        layers = {name: (layer.in_features, layer.out_features) for name, layer in self._fit.layers.items()}
        config = parse_config(self._digest, content)
        return pair_shapes(self._digest, config, layers, max_rank=self._fit.max_rank)
