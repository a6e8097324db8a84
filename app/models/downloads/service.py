"""An adapter as a download: its files as PEFT reads them, its manifest out of the store, and the model's card.

No byte of it is kept anywhere else. How the bytes travel is the route's matter, what a tar is ``tar_layout``'s.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Final

from app.models.downloads.tar_layout import ArchivePart, TarLayout
from core.base_models.registry import Registry
from core.errors import BaseModelProtected, ModelNotFound
from core.serving.adapter_format import FILES, MANIFEST, FileDigest, parse_manifest
from core.serving.adapter_trust import wrong_size
from core.settings import Settings
from core.store import adapters, cards
from core.store.aliases.records import name_behind
from core.store.blobs import BlobStore, said_of
from core.store.db import Database

README: Final = "README.md"
CHUNK_BYTES: Final = 2**18


@dataclass(frozen=True)
class Download:
    """What a model's name is downloaded as. ``digest`` is its adapter's."""

    name: str
    digest: str
    layout: TarLayout

    @property
    def filename(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name).strip('-.') or 'adapter'}.tar"


def find_download(database: Database, settings: Settings, registry: Registry, blobs: BlobStore, name: str) -> Download:
    """Find the adapter that a model, a checkpoint or an alias is served by, and lay its download out.

    Raises:
        BaseModelProtected: it is a base model.
        ModelNotFound: nothing has this name.
        BlobNotFound, BlobDamaged, AdapterInvalid: its manifest cannot be read.
    """
    with database.read() as session:
        behind = name if name in settings.base_models else name_behind(session, name)
        if behind in settings.base_models:
            raise BaseModelProtected(behind, "downloaded")
        served = adapters.find_served(session, behind)
        if served is None:
            raise ModelNotFound(name)
        card = cards.read(session, registry, blobs, behind)
    content = cards.read_adapter_manifest(blobs, name, served.adapter_sha256)
    manifest = parse_manifest(content)
    files = ((file_name, manifest.files[file_name]) for file_name in FILES)
    # The card is last: it alone may change, and what was fetched of the others stays the beginning of the same archive.
    layout = TarLayout([(MANIFEST, content), *files, (README, card.encode())])
    return Download(name, served.adapter_sha256, layout)


class OpenedRange:
    """Some bytes of a download, all of them verified before the first is given. Closes what it opened."""

    def __init__(self, download: Download, found: tuple[int, int] | None, blobs: BlobStore) -> None:
        """Open what the bytes are made of.

        Args:
            found: the first byte, and the one behind the last; None: all of them.

        Raises:
            BlobNotFound, BlobDamaged: a file of the adapter is not what it was.
            AdapterInvalid: a file has another size than the manifest says.
        """
        self.download = download
        self.is_part = found is not None
        self.start, self.stop = found or (0, download.layout.bytes)
        self._parts: Sequence[ArchivePart] = tuple(download.layout.parts(self.start, self.stop))
        self._files: dict[FileDigest, BinaryIO] = {}
        with ExitStack() as opened:
            for part in self._parts:
                if isinstance(part.source, FileDigest) and part.source not in self._files:
                    self._files[part.source] = opened.enter_context(self._open(part.source, blobs))
            self._opened = opened.pop_all()

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes from front to back, once."""
        for part in self._parts:
            if not isinstance(part.source, FileDigest):
                yield part.source[part.begin : part.end]
                continue
            file, left = self._files[part.source], part.end - part.begin
            file.seek(part.begin)
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def close(self) -> None:
        self._opened.close()

    def _open(self, listed: FileDigest, blobs: BlobStore) -> BinaryIO:
        with said_of(f"a file of {self.download.name}"):
            file = blobs.open(listed.sha256)
        size_bytes = file.seek(0, os.SEEK_END)
        if size_bytes != listed.bytes:
            file.close()
            raise wrong_size(self.download.digest, "a file of it", size_bytes, listed)
        return file
