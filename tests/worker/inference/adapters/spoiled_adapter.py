"""An adapter for a test to spoil, and what reading it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import AdapterInvalid, AdapterMismatch
from core.serving.adapter_format import WEIGHTS
from core.store.blobs import LocalBlobStore
from tests.worker.inference.adapters.adapter_files import complete_adapter, store_adapter
from worker.inference.adapters.verification import Fit, open_adapter
from worker.inference.lora.adapter import Adapter

Tensors = dict[str, torch.Tensor]


class SpoiledAdapter:
    """An adapter's folder for a test to spoil, and the reading of it for the tiny Phi."""

    def __init__(self, folder: Path, base_folder: Path, fit: Fit) -> None:
        self.folder = folder
        self.base_folder = base_folder
        self.fit = fit
        self.blobs = LocalBlobStore(folder.parent / "store")

    def store(self) -> str:
        return store_adapter(self.folder, self.blobs)

    def complete(self, **changes: Any) -> None:
        """Write the manifest over what the folder holds now."""
        complete_adapter(self.base_folder, self.folder, **changes)

    def read(self, digest: str | None = None) -> Adapter:
        opened = open_adapter(digest or self.store(), self.blobs, self.fit)
        adapter = opened.read()
        assert adapter.bytes == opened.bytes == sum(pair.bytes for pair in adapter.pairs.values())
        return adapter

    def refusal(
        self, digest: str | None = None, *, kind: type[AdapterInvalid | AdapterMismatch] = AdapterInvalid
    ) -> str:
        """Give the reason for which reading it, or this digest, must be refused."""
        digest = self.store() if digest is None else digest
        with pytest.raises(kind) as caught:
            open_adapter(digest, self.blobs, self.fit).read()
        assert caught.value.args[0] == digest
        return str(caught.value.args[1])

    def change_tensors(self, change: Callable[[Tensors], object]) -> None:
        tensors = load_file(self.folder / WEIGHTS)
        change(tensors)
        save_file(tensors, self.folder / WEIGHTS)
        self.complete()

    def stored(self, name: str) -> Path:
        sha256 = self.blobs.put_file(self.folder / name).sha256
        return next((self.folder.parent / "store").rglob(sha256))
