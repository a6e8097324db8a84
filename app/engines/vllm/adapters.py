"""Adapters as a vLLM server can be given them: checked against the base model, and put where it can read them.

Owns ``<home>/vllm-adapters/<digest>/``, folders that are complete from the moment they exist and never change.
What the server holds of them is ``vllm_residence``'s.
"""

import hashlib
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
from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    BaseModelInvalid,
    BaseModelNotReady,
    BlobNotFound,
    InvalidParameter,
)
from core.serving.adapter_format import (
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    Manifest,
    digest_file,
    digest_text,
    parse_manifest,
)
from core.serving.prompts import render
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

_KNOWN: Final = 1024  # adapters whose manifests are kept read


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
        self._known: OrderedDict[str, tuple[Manifest, Renderer]] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def renderer(self, digest: str) -> Renderer:
        """Give what renders an adapter's prompts as its training did.

        Raises:
            AdapterInvalid: its manifest is missing or damaged, or vLLM does not compute its kind.
            AdapterMismatch: it was made for another base model, tokenizer or chat template.
        """
        return self._read(digest)[1]

    def place(self, digest: str) -> Path:
        """Give the folder with an adapter's weights and config, its bytes checked; make it where it is missing.

        Raises:
            AdapterInvalid, AdapterMismatch: as `renderer`, or a file of it is missing or damaged.
            StorageFull: there is no room for it.
        """
        manifest = self._read(digest)[0]
        target = self._folder / digest
        if not target.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make(digest, manifest, target)
        self._check_files(digest, manifest, target)
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

    def _read(self, digest: str) -> tuple[Manifest, Renderer]:
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
                return self._known[digest]
        manifest = self._read_manifest(digest)
        read = manifest, self._check_fit(digest, manifest)
        with self._lock:
            self._known[digest] = read
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return read

    def _read_manifest(self, digest: str) -> Manifest:
        try:
            with self._blobs.open(digest) as file:
                content = file.read(MANIFEST_LIMIT_BYTES + 1)
        except BlobNotFound as error:
            raise AdapterInvalid(digest, f"its {MANIFEST} is not stored: {error}") from error
        if len(content) > MANIFEST_LIMIT_BYTES:
            raise AdapterInvalid(digest, f"its {MANIFEST} is larger than {MANIFEST_LIMIT_BYTES:,} bytes")
        if hashlib.sha256(content).hexdigest() != digest:
            raise AdapterInvalid(digest, f"the stored bytes of its {MANIFEST} do not have its digest")
        return parse_manifest(content)

    def _check_fit(self, digest: str, manifest: Manifest) -> Renderer:
        tokenizer = self._base.tokenizer
        if manifest.base_model_fingerprint != self._base.fingerprint:
            raise AdapterMismatch(
                digest,
                f"it was trained on {manifest.base_model} with fingerprint {manifest.base_model_fingerprint[:20]}, "
                f"but {self._base.folder.name} has {self._base.fingerprint[:20]}",
            )
        if manifest.tokenizer_sha256 != tokenizer.digest:
            raise AdapterMismatch(digest, "it was trained with another tokenizer")
        template = tokenizer.chat_template
        template_sha256 = None if template is None else digest_text(template)
        if manifest.example_format == "messages" and manifest.chat_template_sha256 != template_sha256:
            raise AdapterMismatch(digest, "it was trained with another chat template")
        if manifest.lora.use_dora:
            raise AdapterInvalid(
                digest, "it was trained with DoRA, which vLLM does not compute; serve it by Loramill's own engine"
            )
        return self._check_prompts(digest, manifest)

    def _check_prompts(self, digest: str, manifest: Manifest) -> Renderer:
        """Render the training's own prompts again: what is fed must begin as what was trained."""
        try:
            renderer = Renderer(self._base.tokenizer, prompt_format=manifest.prompt_format)
            served = [render(renderer, trained.source) for trained in manifest.prompts]
        except InvalidParameter as error:
            raise AdapterMismatch(digest, f"its prompts cannot be rendered here: {error}") from error
        for number, (trained, now) in enumerate(zip(manifest.prompts, served, strict=True), start=1):
            if (trained.text, trained.ids) != (now.text, now.ids):
                raise AdapterMismatch(digest, f"its training prompt {number} is not rendered here as it was trained")
        return renderer

    def _make(self, digest: str, manifest: Manifest, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".placing-", dir=self._folder) as made_in:
            made = Path(made_in) / digest
            made.mkdir()
            for name, listed in manifest.files.items():
                try:
                    self._blobs.fetch(listed.sha256, made / name)
                except BlobNotFound as error:
                    raise AdapterInvalid(digest, f"its {name} is not stored: {error}") from error
                (made / name).chmod(0o444)
            self._check_files(digest, manifest, made)
            try:
                made.rename(target)
            except OSError:
                if not target.exists():
                    raise
                return  # another process was first, with the same bytes
            target.chmod(0o555)

    def _check_files(self, digest: str, manifest: Manifest, folder: Path) -> None:
        for name, listed in manifest.files.items():
            path = folder / name
            if not os.access(path, os.R_OK) or digest_file(path) != listed:
                raise AdapterInvalid(digest, f"{path} does not have the bytes that its manifest names")
