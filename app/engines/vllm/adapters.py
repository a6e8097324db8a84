"""Adapters as a vLLM server can be given them: checked against the base model, and put where it can read them.

Owns ``<home>/vllm-adapters/<digest>/``, folders that are complete from the moment they exist and never change.
What the server holds of them is ``residence``'s.
"""

import os
import shutil
import stat
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.base_models.registry import read_imported
from core.errors import AdapterInvalid, BaseModelInvalid, BaseModelNotReady
from core.serving.adapter_format import FILES, Manifest, digest_file
from core.serving.adapter_trust import TrustedAdapter, refusing, trust_adapter, wrong_size
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

_TRUSTED: Final = 1024  # adapters whose manifests are kept read


@dataclass(frozen=True)
class Base:
    """The imported base model whose adapters are served."""

    folder: Path
    fingerprint: str
    context_tokens: int
    tokenizer: TextTokenizer


def read_base(folder: Path) -> Base:
    """Read what an imported base model's folder says of it; its weights are not touched.

    Raises:
        BaseModelNotReady: it is not imported, or its tokenizer cannot be read.
    """
    try:
        imported = read_imported(folder)
        tokenizer = TextTokenizer.from_folder(folder)
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error
    return Base(folder, imported.fingerprint, imported.context_tokens, tokenizer)


class AdapterFiles:
    """The adapters of one base model, from the store. Safe to use from several threads."""

    def __init__(self, blobs: BlobStore, folder: Path, base: Base) -> None:
        self._blobs = blobs
        self._folder = folder
        self._base = base
        self._trusted: OrderedDict[str, TrustedAdapter] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def renderer(self, digest: str) -> Renderer:
        """Give what renders an adapter's prompts as its training did.

        Raises:
            AdapterInvalid: its manifest is missing or damaged, or vLLM does not compute its kind.
            AdapterMismatch: it was made for another base model, or would be fed otherwise than in training.
        """
        return self._read(digest).renderer

    def place(self, digest: str) -> Path:
        """Give the folder with an adapter's weights and config, its bytes checked; make it where it is missing.

        Raises:
            AdapterInvalid, AdapterMismatch: as `renderer`, or a file of it is missing or damaged.
            StorageFull: there is no room for it.
        """
        manifest = self._read(digest).manifest
        target = self._folder / digest
        if not target.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make(digest, manifest, target)
        self._check_placed(digest, manifest, target)
        return target

    def remove(self, digest: str) -> None:
        """Drop an adapter's folder; dropping what is not there does nothing."""
        target = self._folder / digest
        if target.exists():
            # renamed first, so that nobody takes what is half gone for an adapter
            leaving = Path(tempfile.mkdtemp(prefix=".leaving-", dir=self._folder))
            target.chmod(stat.S_IRWXU)
            target.rename(leaving / digest)
            shutil.rmtree(leaving)

    def _read(self, digest: str) -> TrustedAdapter:
        with self._lock:
            if digest in self._trusted:
                self._trusted.move_to_end(digest)
                return self._trusted[digest]
        trusted = trust_adapter(
            digest, self._blobs.open_unchecked, fingerprint=self._base.fingerprint, tokenizer=self._base.tokenizer
        )
        lora = trusted.manifest.lora
        if lora is None:
            raise AdapterInvalid(
                digest, "it has ranks or scales by patterns, or many target modules; serve it by Loramill's own engine"
            )
        if lora.use_dora:
            raise AdapterInvalid(
                digest, "it was trained with DoRA, which vLLM does not compute; serve it by Loramill's own engine"
            )
        with self._lock:
            self._trusted[digest] = trusted
            while len(self._trusted) > _TRUSTED:
                self._trusted.popitem(last=False)
        return trusted

    def _make(self, digest: str, manifest: Manifest, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".placing-", dir=self._folder) as scratch:
            placing = Path(scratch) / digest
            placing.mkdir()
            for name in FILES:
                listed = manifest.files[name]
                with refusing(digest, name):
                    self._blobs.fetch(listed.sha256, placing / name)
                size_bytes = (placing / name).stat().st_size
                if size_bytes != listed.bytes:
                    raise wrong_size(digest, name, size_bytes, listed)
                (placing / name).chmod(0o400)
            try:
                placing.rename(target)
            except OSError:
                if not target.exists():
                    raise
                return  # another process was first, with the same bytes
            target.chmod(0o500)

    def _check_placed(self, digest: str, manifest: Manifest, folder: Path) -> None:
        for name, listed in manifest.files.items():
            path = folder / name
            if not os.access(path, os.R_OK) or digest_file(path) != listed:
                raise AdapterInvalid(digest, f"{path} does not have the bytes that its manifest names")
